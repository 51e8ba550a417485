"""Each figure of a verdict with its tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from deploykit.core.values import OutputParity, Parity, Value
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
    """The figures of every output, in order."""
    return tuple(bound for output in parity.outputs for bound in _output_bounds(output, parity))


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
    yield Bound(
        name, "largest difference / full scale", f"{output.max_relative:.1e}", f"≤ {tolerance.max_relative:.1e}",
        output.max_relative <= tolerance.max_relative, why["max_relative"],
    )  # fmt: skip
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
