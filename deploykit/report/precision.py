"""What INT8 rests on, what it cost and what really ran, as text for a terminal."""

from __future__ import annotations

from rich.text import Text

from deploykit.values import Budget, CalibrationReceipt, PrecisionReceipt


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
    unit = " points" if found.measure == "top-1 drop" else ""
    state = "holds" if found.kept else "does not hold"
    text = Text(f"budget: {found.measure} of {found.bound:g}{unit} {state}; {found.start:.2f} with every layer in INT8")
    for step in found.steps:
        text.append(
            f"\n  {step.layer} out (alone it adds {step.error:.2g}): {step.before:.2f} → {step.after:.2f}, "
            f"{step.int8_share:.1%} of MACs in INT8"
        )
    return text


def executed(receipt: PrecisionReceipt) -> Text:
    """Shares of multiply-accumulates, from the backend's own account."""
    shares = sorted(receipt.shares.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{share:.1%} {arithmetic.upper()}" for arithmetic, share in shares)
    return Text(f"computed in: {parts} of multiply-accumulates ({receipt.evidence}, {receipt.version})")
