"""Calibration, accuracy budget and executed precision, as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Group
from rich.text import Text

from deploykit.core.values import (
    Budget,
    CalibrationReceipt,
    FileRangesReceipt,
    LayerArithmetic,
    Manifest,
    PrecisionReceipt,
)

RUNTIMES: Final = {
    "onnxruntime": "ONNX Runtime", "onnxruntime-cuda": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT for RTX",
}  # fmt: skip
"""Backends under the names of their libraries."""


def render_precision(manifest: Manifest) -> Group:
    """All that is known of a bundle's precision."""
    parts = [] if manifest.calibration is None else [render_calibration(manifest.calibration)]
    if manifest.file_ranges is not None:
        parts.append(Text(f"INT8 ranges: {describe_file_ranges(manifest.file_ranges)}"))
    if manifest.budget is not None:
        parts.append(render_budget(manifest.budget))
    return Group(*parts, render_executed(manifest.receipt))


def describe_file_ranges(receipt: FileRangesReceipt) -> str:
    """Whose the ranges are, and where they are not what the file states."""
    text = f"{len(receipt.thresholds)} tensors, from the file's {receipt.pairs} Q/DQ pairs"
    if receipt.coarser:
        text += (
            f"; {len(receipt.coarser)} with larger steps than in the file, whose codes are not symmetric around zero"
        )
    if receipt.inferred:
        text += f"; {len(receipt.inferred)} with the range of a neighbour that has the same values"
    if receipt.without_range:
        text += f"; without a range, and so in floating point: {', '.join(receipt.without_range[:LISTED])}"
        text += f" and {len(receipt.without_range) - LISTED} more" if receipt.without_range[LISTED:] else ""
    return text


def render_calibration(receipt: CalibrationReceipt) -> Text:
    """The calibration set, the observer, how far the ranges had converged, and whether evaluation samples are in it."""
    data = receipt.data
    text = Text(f"calibrated on {data.count} samples of {data.name} ({data.split}), observer {receipt.observer}")
    if receipt.convergence:
        last = receipt.convergence[-1]
        text.append(
            f"\n  calibration convergence: ranges at {last.samples} samples within {100 * last.median:.1f} % (median), "
            f"{100 * last.worst:.0f} % (worst) of the final ones"
        )
    text.append(f"\n  {describe_disjointness(receipt)}")
    return text


def describe_disjointness(receipt: CalibrationReceipt) -> str:
    """Whether any evaluation sample was calibrated on."""
    disjoint = receipt.disjoint
    if disjoint.common:
        return f"{disjoint.common} of the {disjoint.compared} evaluation samples are in the calibration set"
    return f"calibration and evaluation sets are disjoint ({disjoint.compared} evaluation samples compared)"


def render_budget(budget: Budget) -> Text:
    """The accuracy budget: the layers that left INT8 to meet it, and the effect of each."""
    limit = "top-1 drop of at most {:g} points" if budget.metric == "top-1 drop" else "SNR of at least {:g} dB"
    state = "met" if budget.met else "not met"
    text = Text(f"budget: {limit.format(budget.limit)}, {state}; it was {budget.start:.2f} with every layer in INT8")
    for step in budget.steps:
        text.append(
            f"\n  {step.layer} left INT8 (alone it adds {step.error:.2g}): {step.before:.2f} → {step.after:.2f}, "
            f"{step.int8_share:.1%} of MACs in INT8"
        )
    return text


def render_executed(receipt: PrecisionReceipt) -> Text:
    """Shares of the multiply-accumulates by executed precision, as the backend reports them; below them, what an INT8
    network leaves in floating point, and what the shares leave out.
    """
    if not receipt.layers and not receipt.uncounted:
        return Text("executed precision: the network has no product")
    text = Text(f"executed precision: {describe_shares(receipt)}")
    for line in (describe_floating(receipt), describe_uncounted(receipt)):
        if line is not None:
            text.append(f"\n  {line}")
    return text


def describe_shares(receipt: PrecisionReceipt) -> str:
    """`97.3 % INT8, 2.7 % FP32 by MACs (OpenVINO 2026.4.1, execution graph)`."""
    runtime = RUNTIMES.get(receipt.backend, receipt.backend)
    return f"{format_shares(receipt)} ({runtime} {receipt.version}, {receipt.evidence})"


def format_shares(receipt: PrecisionReceipt) -> str:
    """`97.3 % INT8, 2.7 % FP32 by MACs`, the largest share first."""
    shares = sorted(receipt.shares.items(), key=lambda item: -item[1])
    parts = [f"{format_share(share)} {arithmetic.upper()}" for arithmetic, share in shares]
    if receipt.unreported:
        parts.append(f"{format_share(1 - sum(receipt.shares.values()))} unreported")
    whole = "by MACs" if not receipt.uncounted else "by the MACs that can be counted"
    return f"{', '.join(parts) or 'unknown'} {whole}"


LISTED: Final = 5
"""Modules, or products without one, that are named; the others are counted."""


def describe_floating(receipt: PrecisionReceipt) -> str | None:
    """What an INT8 network leaves in floating point, by module and share of the MACs, and how much is INT8 at all where
    that is little; None where there is nothing.
    """
    floating, total = receipt.left_floating, sum(layer.macs for layer in receipt.layers)
    if not floating:
        return None
    modules: dict[str, list[LayerArithmetic]] = {}
    for layer in floating:  # an attention module has two products
        modules.setdefault(layer.title, []).append(layer)
    largest = sorted(modules, key=lambda title: -sum(layer.macs for layer in modules[title]))
    named = [
        f"{title} ({_count_operators(modules[title])}, {_describe_work(modules[title], total)})"
        for title in largest[:LISTED]
    ]
    if rest := largest[LISTED:]:
        others = [layer for title in rest for layer in modules[title]]
        named.append(f"{len(rest)} more ({_describe_work(others, total)})")
    asked = format_share(receipt.requested_shares["int8"])
    little = f"only {asked} of the network is INT8 by MACs; " if receipt.int8_shortfall is not None else ""
    return f"{little}in floating point: {', '.join(named)}"


def _count_operators(layers: Sequence[LayerArithmetic]) -> str:
    """`MatMul`, or `2 MatMul and Conv`."""
    operators = Counter(layer.op_type for layer in layers)
    return " and ".join(name if count == 1 else f"{count} {name}" for name, count in operators.items())


def _describe_work(layers: Sequence[LayerArithmetic], total: int) -> str:
    """`6.0 %`, with the time of one call where it was measured: `6.0 %, 0.31 ms`."""
    share = format_share(sum(layer.macs for layer in layers) / total)
    times_ms = [layer.time_ms for layer in layers if layer.time_ms is not None]
    return f"{share}, {sum(times_ms):.2g} ms" if times_ms else share


def describe_uncounted(receipt: PrecisionReceipt) -> str | None:
    """The products that no share includes, with the reason; None where every product counts."""
    if not receipt.uncounted:
        return None
    named = [f"{product.title} ({product.op_type}): {product.reason}" for product in receipt.uncounted[:LISTED]]
    if len(receipt.uncounted) > LISTED:
        named.append(f"and {len(receipt.uncounted) - LISTED} more")
    return f"not counted in these shares: {'; '.join(named)}"


def format_share(share: float) -> str:
    """`100 %`, `97.3 %`: a share of 1 that is not all never reads as 100, and one that is not nothing never as 0."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return "100 %" if round(share, 6) == 1 else f"{min(100 * share, 99.9):.1f} %"
