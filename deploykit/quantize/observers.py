"""Clip thresholds for INT8: a streaming histogram of a tensor's magnitudes, and four observers that read it.

INT8 is symmetric here: zero point 0, scale = threshold / 127. A magnitude above the threshold is clipped to it, one
below is rounded to the nearest of 127 steps, and exact zeros stay exact at any scale. A small threshold rounds finely
and clips more; a large one the reverse. The histogram is filled in one pass and in constant memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import Observer

Counts: TypeAlias = NDArray[np.int64]

BINS: Final = 8192
"""At least half of them lie below the largest magnitude: one of the 127 steps spans 32 bins or more where nothing is
clipped, and still one where the threshold is 1/32 of the range. 64 KiB per tensor."""

FINEST: Final = -126
"""Exponent of the smallest bin width: 2^-126 is float32's smallest normal number, and its reciprocal is normal too. A
tensor that needs narrower bins has no scale that float32 could hold."""

CHUNK: Final = 32768
"""Values counted at a time: they and their bin numbers fit a core's L2 cache."""

STEPS: Final = 127
"""Steps of a magnitude in symmetric INT8: -128 is not used."""

LEVELS: Final = 128
"""Distinct magnitudes in INT8: zero and the steps."""

PERCENTILE: Final = 99.99
"""Clips one value in ten thousand: too rare to matter to a network, and no single outlier sets the scale."""


class Histogram:
    """Histogram of |x| in bins [b · width, (b + 1) · width), with the exact smallest and largest value.

    The width is the smallest power of two with which all magnitudes fit. Doubling it adds up pairs of neighbouring
    bins: ⌊x / 2w⌋ = ⌊⌊x / w⌋ / 2⌋, and division by a power of two is exact. So no count is lost or moved, and the state
    depends on the values alone, not on their order or their split into arrays.
    """

    def __init__(self) -> None:
        self._exponent = FINEST
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.zeros = 0
        """Exact zeros; `counts[0]` includes them."""
        self.low = math.inf
        """The smallest value; infinity while the histogram is empty."""
        self.high = -math.inf
        """The largest value; minus infinity while the histogram is empty."""

    @property
    def width(self) -> float:
        """Width of a bin, in units of the values: a power of two."""
        return math.ldexp(1.0, self._exponent)

    @property
    def count(self) -> int:
        """Number of values added."""
        return int(self.counts.sum())

    @property
    def largest(self) -> float:
        """The exact largest magnitude; 0 while the histogram is empty."""
        return max(-self.low, self.high, 0.0)

    def add(self, array: NDArray[Any]) -> None:
        """Count the values of an array of any shape, floats or integers.

        Raises ValueError, and counts nothing, where a value is NaN or infinite.
        """
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN or infinity among the values")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen_bins(_bin_exponent(self.largest))
        self._count_values(array.ravel(order="K"))

    def _widen_bins(self, exponent: int) -> None:
        if exponent > self._exponent:
            self.counts = _merge_bins(self.counts, exponent - self._exponent)
            self._exponent = exponent

    def _count_values(self, values: NDArray[Any]) -> None:
        """Count flat `values` chunk by chunk.

        Bin numbers go through int32, because two narrow casts are faster than one from float to int64. Zeros are
        counted on the bits, which is faster too, and before scaling, which may underflow.
        """
        real: type[np.floating[Any]] = np.float32 if np.can_cast(values.dtype, np.float32) else np.float64
        magnitudes, narrow, bins = (np.empty(CHUNK, dtype) for dtype in (real, np.int32, np.intp))
        bits = magnitudes.view(np.int32 if real is np.float32 else np.int64)
        reciprocal = real(math.ldexp(1.0, -self._exponent))
        for start in range(0, values.size, CHUNK):
            chunk = values[start : start + CHUNK]
            n = chunk.size
            np.abs(chunk, out=magnitudes[:n], dtype=real)
            self.zeros += n - int(np.count_nonzero(bits[:n]))
            magnitudes[:n] *= reciprocal
            narrow[:n] = magnitudes[:n]
            bins[:n] = narrow[:n]
            self.counts += np.bincount(bins[:n], minlength=BINS)


def _bin_exponent(largest: float) -> int:
    """Exponent of the smallest bin width, 2^exponent, with which `largest` falls into a bin."""
    if largest == 0:
        return FINEST  # frexp gives 0 the exponent of 0.5
    return max(math.frexp(largest)[1] - (BINS.bit_length() - 1), FINEST)


def _merge_bins(counts: Counts, doublings: int) -> Counts:
    """The counts of bins that are 2^doublings times as wide."""
    group = 1 << min(doublings, BINS.bit_length() - 1)
    merged = np.zeros_like(counts)
    merged[: BINS // group] = counts.reshape(-1, group).sum(axis=1)
    return merged


# Thresholds: from a histogram to a magnitude, in units of the values


def compute_threshold(histogram: Histogram, observer: Observer) -> float:
    """The threshold of `observer`: above 0 and at most `histogram.largest`; 0 where all values are zero."""
    return THRESHOLDS[observer](histogram)


def minmax_threshold(histogram: Histogram) -> float:
    """The largest magnitude: nothing is clipped."""
    return histogram.largest


def percentile_threshold(histogram: Histogram, percent: float = PERCENTILE) -> float:
    """The smallest bin edge below which at least `percent` % of all values lie, zeros included.

    ValueError unless 0 < `percent` ≤ 100. onnxruntime takes the lower edge of the same bin.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile must be above 0 and at most 100, not {percent}")
    below = np.cumsum(histogram.counts)
    return _upper_edge(histogram, int(np.searchsorted(below, percent / 100 * int(below[-1]))) + 1)


def entropy_threshold(histogram: Histogram) -> float:
    """The bin edge that minimizes the KL divergence between the clipped counts and their form in `LEVELS` magnitudes.

    The calibration of Migacz (8-bit Inference with TensorRT, GTC 2017); see `kl_divergences`. Exact zeros are left out:
    no scale changes them, and after a ReLU they would dominate.
    """
    used = _trim_counts(histogram)
    if used.size <= LEVELS:
        return histogram.largest
    return _upper_edge(histogram, LEVELS + int(np.argmin(kl_divergences(used, LEVELS))))


def mse_threshold(histogram: Histogram) -> float:
    """The bin edge that minimizes the mean squared error of INT8, clipping and rounding together.

    Searched on a grid of 128 edges, then among all edges between the neighbours of the best one.
    """
    used = _trim_counts(histogram)
    if used.size == 0:
        return histogram.largest
    stride = BINS // 128
    grid = np.append(np.arange(stride, used.size, stride), used.size)
    best = int(grid[np.argmin(squared_errors(used, grid))])
    near = np.arange(max(best - stride, 1), min(best + stride, used.size) + 1)
    return _upper_edge(histogram, int(near[np.argmin(squared_errors(used, near))]))


THRESHOLDS: Final[Mapping[Observer, Callable[[Histogram], float]]] = {
    "entropy": entropy_threshold,
    "percentile": percentile_threshold,
    "mse": mse_threshold,
    "minmax": minmax_threshold,
}


def _upper_edge(histogram: Histogram, bins: int) -> float:
    """The upper edge of the first `bins` bins, or the largest magnitude where that is smaller."""
    return min(bins * histogram.width, histogram.largest)


def _trim_counts(histogram: Histogram) -> Counts:
    """Counts up to the last nonempty bin, without the exact zeros; empty where all values are zero."""
    counts = histogram.counts.copy()
    counts[0] -= histogram.zeros
    return np.trim_zeros(counts, "b")


def kl_divergences(counts: Counts, levels: int) -> NDArray[np.float64]:
    """KL(P ‖ Q) in nats of clipping after i = `levels`, `levels` + 1, …, n bins, shape (n − levels + 1,).

    P is the counts of the first i bins, with all later counts added to the last of them. Q is the counts of the same
    bins without that addition, averaged within each of `levels` runs of nearly equal length (run r begins at bin
    ⌊r · i / levels⌋) over the bins that P occupies. Infinite where a run has counts in P and none in Q.

    onnxruntime differs: its runs are ⌊i / levels⌋ bins with Q = 0 in the remaining bins, it spreads Q over empty bins
    too, truncates Q to integers, and counts both signs separately, so that its 128 levels are 64 magnitudes.

    With a run's sum S of Q, its sum W of P and its k occupied bins, Σ P log Q = Σ W log(S / k): a candidate needs only
    differences of cumulative sums, `levels` steps instead of i.
    """
    # counts: (n,); ends: (candidates,); runs: (candidates, levels + 1) bin edges
    values = counts.astype(np.float64)
    sums, occupied, logs = (
        _cumulative_sums(values),
        _cumulative_sums(values > 0),
        _cumulative_sums(_count_log_count(values)),
    )
    results = np.empty(counts.size - levels + 1)
    for start in range(0, results.size, 256):  # 256 candidates at a time, so that the arrays stay in the cache
        ends = np.arange(start, min(start + 256, results.size)) + levels
        runs = ends[:, None] * np.arange(levels + 1) // levels
        last, clipped = values[ends - 1], sums[-1] - sums[ends]
        even, bins = np.diff(sums[runs]), np.diff(occupied[runs])
        bins[:, -1] += (last == 0) & (clipped > 0)
        own = logs[ends] - _count_log_count(last) + _count_log_count(last + clipped)
        with np.errstate(divide="ignore", invalid="ignore"):
            heights = np.log(even / bins)
            cross = np.where(even > 0, even * heights, 0.0).sum(axis=1)
            cross += np.where(clipped > 0, clipped * heights[:, -1], 0.0)
            results[ends - levels] = (own - cross) / sums[-1] + np.log(sums[ends] / sums[-1])
    return np.where(np.isnan(results), np.inf, results)


def squared_errors(counts: Counts, ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Summed squared error of INT8, in squared bin widths, for thresholds at the upper edges of the first `ends` bins.

    Values are assumed uniform within their bin. Below the threshold, ∫ (t − s · round(t / s))² dt from 0 to x is
    s³ (n / 12 + r³ / 3) with s = end / 127, n = round(x / s), r = x / s − n; above it, the error is (t − end)².
    """
    # counts: (n,); ends: (candidates,); result: (candidates,)
    edges = np.arange(counts.size + 1, dtype=np.float64)
    errors = np.empty(ends.size)
    for index, end in enumerate(ends):
        position = edges[: end + 1] * (STEPS / end)
        whole = np.rint(position)
        rest, beyond = position - whole, edges[end:] - end
        rounding = np.diff(whole / 12 + rest * rest * rest / 3) @ counts[:end]
        clipping = np.diff(beyond * beyond * beyond / 3) @ counts[end:]
        errors[index] = rounding * (end / STEPS) ** 3 + clipping
    return errors


def _cumulative_sums(values: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, … and all values, shape (n + 1,)."""
    sums = np.zeros(values.size + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def _count_log_count(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count · log(count), 0 for a count of 0."""
    logs: NDArray[np.float64] = values * np.log(np.maximum(values, 1.0))
    return logs
