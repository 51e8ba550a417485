"""Several batch sizes: the one from which on larger ones give nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deploykit.core.values import Measured

NEAR_BEST: Final = 0.95
"""Of the best throughput: what is lost is less than what machines differ by from one run to the next."""


def knee(found: Sequence[Measured]) -> int | None:
    """The smallest batch that gives 95 % of the best throughput. None where there is nothing to choose: of one size,
    and where calls come at a rate, which is then all the throughput there is.
    """
    figures = [each.latency for each in found if each.rate_per_s is None]
    if len({each.batch for each in figures}) < 2:
        return None
    best = max(each.throughput_per_s for each in figures)
    return min(each.batch for each in figures if each.throughput_per_s >= NEAR_BEST * best)
