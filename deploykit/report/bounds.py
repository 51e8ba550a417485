"""Each figure of a verdict with its tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from deploykit.core.values import Faithfulness, OutputParity, Parity, PrecisionCost, Value
from deploykit.report.formatting import ABSENT, format_db, format_percent


class Bound(Value, frozen=True):
    """One figure of one output, as text."""

    output: str
    figure: str
    measured: str
    bound: str
    passed: bool | None
    """None: not judged."""
    reason: str
    """Why the tolerance has this value, or why there is none."""


def list_bounds(parity: Parity) -> tuple[Bound, ...]:
    """The figures of every output, in order, each with its bound where it is judged."""
    if parity.faithfulness is not None and parity.executed_cost is not None:
        return (*_faithfulness_bounds(parity.faithfulness), *_cost_bounds(parity.executed_cost))
    return tuple(bound for output in parity.outputs for bound in _output_bounds(output, parity))


def _faithfulness_bounds(faithfulness: Faithfulness) -> Iterator[Bound]:
    for part in faithfulness.parts:
        yield Bound(
            _name_part(part.output, part.part), "SNR of the engine against its graph", format_db(part.snr_db),
            ABSENT if part.min_snr_db is None else f"≥ {format_db(part.min_snr_db)}",
            None if part.min_snr_db is None else part.snr_db is None or part.snr_db >= part.min_snr_db,
            faithfulness.reason,
        )  # fmt: skip


def _cost_bounds(cost: PrecisionCost) -> Iterator[Bound]:
    for part in cost.parts:
        least_db = part.min_snr_db
        yield Bound(
            _name_part(part.output, part.part), "SNR of the graph against the reference", format_db(part.snr_db),
            ABSENT if least_db is None else f"≥ {format_db(least_db)}",
            None if least_db is None else part.snr_db is None or part.snr_db >= least_db,
            cost.reason,
        )  # fmt: skip
    for output in cost.outputs:
        for figure in output.figures:
            yield Bound(
                output.name, figure.name, figure.text, figure.bound_text or ABSENT, figure.passed, figure.reason
            )


def _name_part(output: str, part: str) -> str:
    return f"{output}, {part}" if part else output


def _output_bounds(output: OutputParity, parity: Parity) -> Iterator[Bound]:
    tolerance, name = parity.tolerance, output.name
    why = {
        key: tolerance.reasons.get(key, "")
        for key in ("min_snr_db", "max_relative", "min_cosine", "min_top1_agreement")
    }
    yield Bound(
        name, "signal-to-noise ratio", format_db(output.snr_db), f"≥ {tolerance.min_snr_db:g} dB",
        output.snr_db is None or output.snr_db >= tolerance.min_snr_db, why["min_snr_db"],
    )  # fmt: skip
    if tolerance.max_relative is not None:
        yield Bound(
        name, "largest difference / full scale", f"{output.max_relative:.1e}", f"≤ {tolerance.max_relative:.1e}",
        output.max_relative <= tolerance.max_relative, why["max_relative"],
    )  # fmt: skip
    if tolerance.min_cosine is not None and output.cosine is not None:
        yield Bound(
        name, "worst sample's cosine", f"{output.cosine:.7f}", f"≥ {tolerance.min_cosine:g}",
        output.cosine >= tolerance.min_cosine, why["min_cosine"],
    )  # fmt: skip
    if output.top1_agreement is not None:
        minimum, count = tolerance.min_top1_agreement, parity.data.count
        different = round((1 - output.top1_agreement) * count)
        yield Bound(
            name, "top-1 agreement", format_percent(output.top1_agreement),
            ABSENT if minimum is None else f"≥ {format_percent(minimum)}, or all but 1 sample",
            None if minimum is None else different <= max(1, math.floor((1 - minimum) * count)),
            why["min_top1_agreement"],
        )  # fmt: skip
