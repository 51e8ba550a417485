"""Statistics of durations, and the ratio of two series."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deploykit.core.values import Interval

RESAMPLES = 2000
"""Bootstrap resamples: 50 lie beyond each end of a 95 % interval."""

MIN_PAIRS = 6
"""With 5 pairs, all lie on one side of the true median with probability 2·(1/2)⁵ = 6 %: no 95 % interval exists."""


def percentile(durations: Sequence[int], percent: float) -> int:
    """The smallest duration that at most 100 − `percent` % of the durations exceed, without interpolation.

    ascending[max(N − 1 − ⌊(1 − percent/100)·N⌋, 0)], as in trtexec: always a measured duration.
    """
    if not durations:
        raise ValueError("a percentile needs at least one duration")
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not at {percent}")
    count = len(durations)
    # Rounded before the floor: (1 − 0.9)·10 is 0.999… in binary floating point.
    above = math.floor(round((1 - percent / 100) * count, 9))
    return sorted(durations)[max(count - 1 - above, 0)]


def mean(durations: Sequence[int]) -> float:
    """Σ x / N."""
    return math.fsum(durations) / len(durations)


def standard_deviation(durations: Sequence[int]) -> float:
    """Standard deviation of the durations: √(Σ (x − mean)² / N)."""
    centre = mean(durations)
    return math.sqrt(math.fsum((duration - centre) ** 2 for duration in durations) / len(durations))


def median_ratio(numerator: Sequence[int], denominator: Sequence[int], seed: int = 0) -> Interval:
    """Median over rounds of numerator / denominator, with a bootstrap interval that resamples rounds.

    The two of a round ran next to each other: a machine that slows down slows both, and the ratio is unaffected.
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"durations pair up by round, but there are {len(numerator)} and {len(denominator)}")
    if len(numerator) < MIN_PAIRS:
        raise ValueError(f"an interval needs at least {MIN_PAIRS} rounds, not {len(numerator)}")
    ratios = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    generator = np.random.default_rng(seed)
    resamples = generator.choice(ratios, (RESAMPLES, ratios.size))  # 16 MB for a thousand rounds
    low, high = np.percentile(np.median(resamples, axis=1), [2.5, 97.5])
    return Interval(estimate=float(np.median(ratios)), low=float(low), high=float(high))
