"""Each figure of a verdict beside its bound."""

from __future__ import annotations

import math
from collections.abc import Iterator

from deploykit.core.values import OutputParity, Parity, Value
from deploykit.report.words import ABSENT, decibels, percent


class Bound(Value, frozen=True):
    """One figure of one output, as words."""

    output: str
    figure: str
    measured: str
    bound: str
    holds: bool | None
    """None: it is not judged."""
    reason: str
    """Why the bound lies there, or why there is none."""


def bounds(parity: Parity) -> tuple[Bound, ...]:
    """Of every output, in order."""
    return tuple(bound for output in parity.outputs for bound in _of(output, parity))


def _of(output: OutputParity, parity: Parity) -> Iterator[Bound]:
    tolerance, name = parity.tolerance, output.name
    why = {
        key: tolerance.reasons.get(key, "")
        for key in ("min_snr_db", "max_relative", "min_cosine", "min_top1_agreement")
    }
    yield Bound(
        name, "signal-to-noise ratio", decibels(output.snr_db), f"≥ {tolerance.min_snr_db:g} dB",
        output.snr_db is None or output.snr_db >= tolerance.min_snr_db, why["min_snr_db"],
    )  # fmt: skip
    yield Bound(
        name, "largest difference, of full scale", f"{output.max_relative:.1e}", f"≤ {tolerance.max_relative:.1e}",
        output.max_relative <= tolerance.max_relative, why["max_relative"],
    )  # fmt: skip
    yield Bound(
        name, "worst sample's cosine", f"{output.cosine:.7f}", f"≥ {tolerance.min_cosine:g}",
        output.cosine >= tolerance.min_cosine, why["min_cosine"],
    )  # fmt: skip
    if output.top1_agreement is not None:
        least, count = tolerance.min_top1_agreement, parity.data.count
        different = round((1 - output.top1_agreement) * count)
        yield Bound(
            name, "same best class", percent(output.top1_agreement),
            ABSENT if least is None else f"≥ {percent(least)}, or all but 1 sample",
            None if least is None else different <= max(1, math.floor((1 - least) * count)), why["min_top1_agreement"],
        )  # fmt: skip
