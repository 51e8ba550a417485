"""Figures of a list of durations, and of the ratio of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deploykit.core.values import Interval

RESAMPLES = 2000
"""Bootstrap resamples: the ends of a 95 % interval then rest on 50 of them each."""

FEWEST_PAIRS = 6
"""Of 5 pairs, all lie on one side of the true median with a chance of 2·(1/2)⁵ = 6 %: no 95 % interval exists."""


def percentile(durations: Sequence[int], percent: float) -> int:
    """The smallest duration that at most 100 − `percent` % of them exceed, without interpolation.

    ascending[max(N − 1 − ⌊(1 − percent/100)·N⌋, 0)], as trtexec defines it: always a duration that was measured.
    """
    if not durations:
        raise ValueError("there is no percentile of nothing")
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not at {percent}")
    count = len(durations)
    # Rounded before it is floored: (1 − 0.9)·10 is 0.999… in binary, and 1 by any other account.
    above = math.floor(round((1 - percent / 100) * count, 9))
    return sorted(durations)[max(count - 1 - above, 0)]


def mean(durations: Sequence[int]) -> float:
    """Σ x / N."""
    return math.fsum(durations) / len(durations)


def deviation(durations: Sequence[int]) -> float:
    """Standard deviation of the durations that were measured: √(Σ (x − mean)² / N)."""
    centre = mean(durations)
    return math.sqrt(math.fsum((duration - centre) ** 2 for duration in durations) / len(durations))


def ratio(numerator: Sequence[int], denominator: Sequence[int], seed: int = 0) -> Interval:
    """Median over rounds of numerator / denominator, with a bootstrap interval: whole rounds are drawn again.

    The two of one round ran next to each other, so that a machine that slows down slows both and the ratio holds.
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"durations pair up by round, but there are {len(numerator)} and {len(denominator)}")
    if len(numerator) < FEWEST_PAIRS:
        raise ValueError(f"an interval needs at least {FEWEST_PAIRS} rounds, not {len(numerator)}")
    ratios = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    chance = np.random.default_rng(seed)
    resamples = chance.choice(ratios, (RESAMPLES, ratios.size))  # 16 MB for a thousand rounds
    low, high = np.percentile(np.median(resamples, axis=1), [2.5, 97.5])
    return Interval(estimate=float(np.median(ratios)), low=float(low), high=float(high))
