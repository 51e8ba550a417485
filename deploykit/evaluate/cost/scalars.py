"""Scalars, one number per sample: how far off is it, compared with how much it varies, and is the order the same?"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost.figures import Bound, make_figure
from deploykit.evaluate.cost.intervals import Z

Array = NDArray[Any]

ENOUGH_SAMPLES: Final = 8
"""Samples from which a rank correlation is given."""

BOUNDS: Final = {
    "median error": Bound(
        0.5,
        "an error of 10 dB below the spread has a median of 0.2; a candidate that ignores its input and gives the mean "
        "has 0.67, another network's output 0.95",
    ),
    "rank correlation": Bound(
        0.8, "rounding that leaves 10 dB leaves 0.95, 5 dB 0.87; it fails only where the whole interval is below"
    ),
}


def measure_scalar(reference: Array, candidate: Array) -> list[CostFigure]:
    """Quantiles of |Δ| in units of the reference's standard deviation over samples, and from 8 samples on Spearman's
    rank correlation; N or N×1×… numbers. Without any spread the largest |Δ| in the output's own unit, not judged.
    """
    r, c = (array.reshape(len(array)).astype(np.float64) for array in (reference, candidate))
    errors, spread = np.abs(c - r), float(r.std())
    if spread <= 1e-12 * float(np.abs(r).max()):
        return [make_figure("largest error, without spread", float(errors.max()), "", lower_is_better=True)]
    figures = [
        _measure_median(errors / spread),
        make_figure("error, worst 10 %", float(np.quantile(errors, 0.9)) / spread, "spread", lower_is_better=True),
        make_figure("largest error", float(errors.max()) / spread, "spread", lower_is_better=True),
    ]
    if len(r) >= ENOUGH_SAMPLES:
        figures.append(_correlate_ranks(r, c))
    return figures


def _measure_median(errors: Array) -> CostFigure:
    """The median of N errors; from 6 samples on with the interval of order statistics, which holds for any
    distribution: from the k-th smallest to the k-th largest, where at most 2.5 % of N coin throws give fewer than k
    heads.
    """
    median, count = float(np.median(errors)), len(errors)
    rank, tail = 0, 0.5**count  # tail: the probability of `rank` heads or fewer
    while tail <= 0.025:
        rank += 1
        tail += math.comb(count, rank) * 0.5**count
    if rank == 0:  # of 5 samples or fewer, even the smallest and the largest are too close together
        return make_figure("median error", median, "spread", lower_is_better=True)
    low, high = np.sort(errors)[[rank - 1, -rank]]
    return CostFigure("median error", median, float(low), float(high), "spread", lower_is_better=True)


def _correlate_ranks(r: Array, c: Array) -> CostFigure:
    """Spearman's rank correlation, with the interval of D. G. Bonett and T. A. Wright (Psychometrika 65, 2000, 23 to
    28): atanh ρ ± Z·√((1 + ρ²/2) / (N − 3)).
    """
    ranks_r, ranks_c = _average_ranks(r), _average_ranks(c)
    deviation = float(ranks_c.std())
    # A constant candidate orders nothing.
    rho = float(np.corrcoef(ranks_r, ranks_c)[0, 1]) if deviation > 0 else 0.0
    rho = min(1.0, max(-1.0, rho))
    half = Z * math.sqrt((1 + rho**2 / 2) / (len(r) - 3))
    middle = math.atanh(min(1 - 1e-12, max(-1 + 1e-12, rho)))
    low, high = min(rho, math.tanh(middle - half)), max(rho, math.tanh(middle + half))
    return CostFigure("rank correlation", rho, low, high, "")


def _average_ranks(values: Array) -> Array:
    """Ranks from 0; equal values share the mean of theirs."""
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts + 1) / 2)[groups.reshape(-1)]
    return ranks
