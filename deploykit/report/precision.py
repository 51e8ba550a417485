"""What INT8 rests on, what it cost and what really ran, as text for a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from deploykit.core.values import Budget, CalibrationReceipt, PrecisionReceipt


def account(rests_on: CalibrationReceipt | None, cost: Budget | None, ran: PrecisionReceipt) -> Group:
    """All that there is to say of a bundle's precision."""
    parts = [] if rests_on is None else [calibration(rests_on)]
    if cost is not None:
        parts.append(budget(cost))
    return Group(*parts, executed(ran))


def calibration(receipt: CalibrationReceipt) -> Text:
    """On which images, how the ranges were taken, how far they had settled, and that none of them is judged on."""
    data = receipt.data
    text = Text(f"calibrated on {data.count} samples of {data.name} ({data.split}), observer {receipt.observer}")
    if receipt.convergence:
        last = receipt.convergence[-1]
        text.append(
            f"\n  ranges from the first {last.samples} samples were within {last.median:.1%} (median) and "
            f"{last.worst:.0%} (worst) of these"
        )
    text.append(f"\n  none of the {receipt.disjoint.compared} samples that parity is judged on is among them")
    return text


def budget(found: Budget) -> Text:
    """The path: which layers came out of INT8, and what each brought."""
    said = "top-1 drop of at most {:g} points" if found.measure == "top-1 drop" else "SNR of at least {:g} dB"
    state = "holds" if found.kept else "does not hold"
    text = Text(f"budget: {said.format(found.bound)} {state}; it was {found.start:.2f} with every layer in INT8")
    for step in found.steps:
        text.append(
            f"\n  {step.layer} out (alone it adds {step.error:.2g}): {step.before:.2f} → {step.after:.2f}, "
            f"{step.int8_share:.1%} of MACs in INT8"
        )
    return text


def executed(receipt: PrecisionReceipt) -> Text:
    """Shares of multiply-accumulates, from the backend's own account."""
    shares = sorted(receipt.shares.items(), key=lambda item: -item[1])
    if not receipt.layers:
        return Text("computed in: no layer of the network multiplies by weights")
    parts = ", ".join(f"{share:.1%} {arithmetic.upper()}" for arithmetic, share in shares)
    if receipt.untold:
        parts += f"{', ' if parts else ''}{1 - sum(receipt.shares.values()):.1%} untold"
    return Text(f"computed in: {parts} of multiply-accumulates ({receipt.evidence}, {receipt.version})")
