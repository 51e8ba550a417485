"""A verdict in words: whether the engine computes its graph, what the precision costs, what was not measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from deploykit.core.values import CostFigure, OutputKind, Parity, PartCost, PrecisionCost, PrecisionReceipt
from deploykit.report.formatting import format_db, format_precision

KIND_TITLES: Final[dict[OutputKind, str]] = {
    "classes": "class scores",
    "map": "probability map",
    "detections": "boxes with scores",
    "boxes": "boxes",
    "embedding": "embedding",
    "scalar": "scalar",
    "sequence": "sequence",
    "tensor": "tensor",
}


def format_headline(passed: bool, qualifiers: tuple[str, ...] = ()) -> str:
    """`PASSED`, `FAILED`, or `PASSED (faithful; accuracy not measured)`."""
    if not passed:
        return "FAILED"
    return f"PASSED ({'; '.join(qualifiers)})" if qualifiers else "PASSED"


def list_qualifiers(parity: Parity, precision: str, receipt: PrecisionReceipt | None) -> tuple[str, ...]:
    """What a reader must know beside the word PASSED."""
    qualifiers = []
    if precision.startswith("int8") and parity.faithfulness is not None and parity.accuracy is None:
        qualifiers += ["faithful", "accuracy not measured"]
    if (executed := _other_precision(precision, receipt)) is not None:
        qualifiers.append(f"executed in {executed.upper()}")
    return tuple(qualifiers)


def _other_precision(precision: str, receipt: PrecisionReceipt | None) -> str | None:
    """The arithmetic that most of a 16-bit graph is executed in, where it is another; None: it is the graph's own."""
    if receipt is None or precision not in ("fp16", "bf16") or not receipt.shares:
        return None
    most = max(receipt.shares, key=lambda name: receipt.shares[name])
    return None if most == precision else most


def list_verdict_lines(parity: Parity, precision: str) -> Iterator[str]:
    """One line on faithfulness, then one on the cost at each output."""
    faithfulness, cost = parity.faithfulness, parity.executed_cost
    if faithfulness is None or cost is None:
        return
    bounds = [part.min_snr_db for part in faithfulness.parts if part.min_snr_db is not None]
    bound = f"bound {format_db(min(bounds))}" if bounds else "which is negligible"
    yield f"engine against its graph: SNR {format_db(faithfulness.worst_snr_db)}, {bound} ({faithfulness.graph})"
    yield from _cost_lines(cost, precision)


def _cost_lines(cost: PrecisionCost, precision: str) -> Iterator[str]:
    for output in cost.outputs:
        parts = [part for part in cost.parts if part.output == output.name]
        figures = [*map(_format_part, parts), *map(format_figure, output.figures)]
        yield (
            f"cost of {format_precision(precision)} at {output.name} ({KIND_TITLES[output.kind]}): {', '.join(figures)}"
        )


def _format_part(part: PartCost) -> str:
    name = f"{part.part} " if part.part else ""
    floor = "" if part.floor_db is None else f" (the precision's own floor {format_db(part.floor_db)})"
    return f"{name}SNR {format_db(part.snr_db)}{floor}"


def format_figure(figure: CostFigure) -> str:
    """`top-1 agreement 93.8 % (95 % interval 71.7 % to 98.9 %)`"""
    return f"{figure.name} {figure.text}"
