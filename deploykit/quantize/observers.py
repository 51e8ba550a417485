"""Where to clip a tensor's values before they become 8 bits: a histogram of magnitudes, and four ways to read it.

INT8 is symmetric here: zero point 0, scale = threshold / 127. A magnitude above the threshold is clipped to it, one
below is rounded to the next of 127 steps, and exact zeros stay exact at any scale. A small threshold rounds finely and
clips much; a large one the reverse. The histogram is filled in one pass, in memory that does not grow with the samples.
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
"""At least half of them lie below the largest magnitude, so that one of the 127 steps spans 32 bins or more where
nothing is clipped, and still one where only a thirty-second of the range is kept. 64 KiB per tensor."""

FINEST: Final = -126
"""Bins are never narrower than 2^-126, float32's smallest normal number: its reciprocal is one too, and a tensor that
would need them has no scale that float32 could hold."""

CHUNK: Final = 32768
"""Values counted at a time: they and their bin numbers stay in a core's second-level cache."""

STEPS: Final = 127
"""Of a magnitude in symmetric INT8: -128 is not used."""

LEVELS: Final = 128
"""Magnitudes that INT8 can tell apart: zero and the steps."""

PERCENTILE: Final = 99.99
"""Clips one value in ten thousand: rare enough that a network hardly notices, and yet no single outlier of the samples
sets the scale."""


class Histogram:
    """How often which magnitude occurred: counts of |x| in bins [b · width, (b + 1) · width), and the exact extremes.

    The width is the smallest power of two with which all magnitudes fit, and doubling it adds up pairs of neighbours:
    ⌊x / 2w⌋ = ⌊⌊x / w⌋ / 2⌋, and division by a power of two is exact. So no count is ever lost or moved, and the state
    depends on the values alone: neither on their order, nor on how they were split among arrays and histograms.
    """

    def __init__(self) -> None:
        self._exponent = FINEST
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.zeros = 0
        """Exact zeros, which `counts[0]` counts too."""
        self.low = math.inf
        """The smallest value; infinity while there is none."""
        self.high = -math.inf
        """The largest value; minus infinity while there is none."""

    @property
    def width(self) -> float:
        """Of one bin, in units of the values: a power of two."""
        return math.ldexp(1.0, self._exponent)

    @property
    def count(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @property
    def largest(self) -> float:
        """The largest magnitude, exactly; 0 while there is none."""
        return max(-self.low, self.high, 0.0)

    def add(self, array: NDArray[Any]) -> None:
        """Count the values of an array of any shape: floats or integers, each taken as it is.

        Raises ValueError where one is NaN or infinite, and has counted nothing then.
        """
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN or infinity among the values")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(_exponent(self.largest))
        self._count(array.ravel(order="K"))

    def merge(self, other: Histogram) -> None:
        """Count all that `other` has counted, as if its arrays had been added here; `other` stays as it is."""
        self._widen(other._exponent)
        self.counts += _coarser(other.counts, self._exponent - other._exponent)
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def _widen(self, exponent: int) -> None:
        if exponent > self._exponent:
            self.counts = _coarser(self.counts, exponent - self._exponent)
            self._exponent = exponent

    def _count(self, values: NDArray[Any]) -> None:
        """Add up flat `values` chunk by chunk. Through int32, because two narrow casts are faster than float to int64;
        zeros are counted as integers, which is faster too, and before scaling, which may underflow.
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


def _exponent(largest: float) -> int:
    """Of the narrowest bins, 2^exponent wide, among which `largest` has its place."""
    if largest == 0:
        return FINEST  # and not the width that suits 0.5, whose exponent frexp gives 0 too
    return max(math.frexp(largest)[1] - (BINS.bit_length() - 1), FINEST)


def _coarser(counts: Counts, doublings: int) -> Counts:
    """The same counts where bins are 2^doublings times as wide."""
    group = 1 << min(doublings, BINS.bit_length() - 1)
    merged = np.zeros_like(counts)
    merged[: BINS // group] = counts.reshape(-1, group).sum(axis=1)
    return merged


# ── Thresholds: from a histogram to a magnitude, in units of the values ─────────────────────────────────────────────


def threshold(histogram: Histogram, observer: Observer) -> float:
    """Where `observer` clips: above 0 and at most `histogram.largest`; 0 where nothing but zeros was seen."""
    return THRESHOLDS[observer](histogram)


def minmax(histogram: Histogram) -> float:
    """The largest magnitude: nothing is clipped."""
    return histogram.largest


def percentile(histogram: Histogram, percent: float = PERCENTILE) -> float:
    """The smallest bin edge below which at least `percent` % of all values lie, zeros included.

    `percent` is above 0 and at most 100, else ValueError. onnxruntime takes the lower edge of the same bin.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile is above 0 and at most 100, not {percent}")
    below = np.cumsum(histogram.counts)
    return _edge(histogram, int(np.searchsorted(below, percent / 100 * int(below[-1]))) + 1)


def entropy(histogram: Histogram) -> float:
    """The bin edge for which the counts, clipped there, diverge least from what `LEVELS` magnitudes can tell of them.

    The calibration of Migacz (8-bit Inference with TensorRT, GTC 2017); see `divergences`. Exact zeros are left out: no
    scale changes them, and behind a ReLU they would decide alone.
    """
    used = _used(histogram)
    if used.size <= LEVELS:
        return histogram.largest
    return _edge(histogram, LEVELS + int(np.argmin(divergences(used, LEVELS))))


def mse(histogram: Histogram) -> float:
    """The bin edge that makes the mean squared error of INT8, clipping and rounding together, the smallest.

    Sought on a grid of 128 edges, then among all edges between the neighbours of the best.
    """
    used = _used(histogram)
    if used.size == 0:
        return histogram.largest
    stride = BINS // 128
    grid = np.append(np.arange(stride, used.size, stride), used.size)
    best = int(grid[np.argmin(squared_errors(used, grid))])
    near = np.arange(max(best - stride, 1), min(best + stride, used.size) + 1)
    return _edge(histogram, int(near[np.argmin(squared_errors(used, near))]))


THRESHOLDS: Final[Mapping[Observer, Callable[[Histogram], float]]] = {
    "entropy": entropy,
    "percentile": percentile,
    "mse": mse,
    "minmax": minmax,
}


def _edge(histogram: Histogram, bins: int) -> float:
    """The upper edge of the first `bins` bins, or the largest magnitude where that is smaller."""
    return min(bins * histogram.width, histogram.largest)


def _used(histogram: Histogram) -> Counts:
    """Counts up to the last bin that holds anything, without the exact zeros; empty where there is nothing else."""
    counts = histogram.counts.copy()
    counts[0] -= histogram.zeros
    return np.trim_zeros(counts, "b")


def divergences(counts: Counts, levels: int) -> NDArray[np.float64]:
    """KL(P ‖ Q) in nats of clipping behind `levels`, `levels` + 1, … and all of the n bins: n − levels + 1 figures.

    P is the counts of the first i bins, with all that lies behind them added to the last. Q is the counts of the same
    bins without that, evened out within each of `levels` runs of as equal a length as can be (run r begins at bin
    ⌊r · i / levels⌋) over the bins that P occupies. Infinite where P has something in a run in which Q has nothing.

    onnxruntime has whole runs of ⌊i / levels⌋ bins and Q = 0 in the bins left over, spreads Q over empty bins as well,
    truncates it to integers, and counts both signs apart, so that its 128 levels are 64 magnitudes.

    With a run's sum S of Q, its sum W of P and its k occupied bins, Σ P log Q = Σ W log(S / k): all that a candidate
    needs are differences of running sums, so it costs `levels` steps instead of i.
    """
    values = counts.astype(np.float64)
    sums, occupied, logs = _running(values), _running(values > 0), _running(_entropic(values))
    found = np.empty(counts.size - levels + 1)
    for start in range(0, found.size, 256):  # of which all arrays stay in the cache
        ends = np.arange(start, min(start + 256, found.size)) + levels
        runs = ends[:, None] * np.arange(levels + 1) // levels
        last, clipped = values[ends - 1], sums[-1] - sums[ends]
        even, bins = np.diff(sums[runs]), np.diff(occupied[runs])
        bins[:, -1] += (last == 0) & (clipped > 0)
        own = logs[ends] - _entropic(last) + _entropic(last + clipped)
        with np.errstate(divide="ignore", invalid="ignore"):
            heights = np.log(even / bins)
            cross = np.where(even > 0, even * heights, 0.0).sum(axis=1)
            cross += np.where(clipped > 0, clipped * heights[:, -1], 0.0)
            found[ends - levels] = (own - cross) / sums[-1] + np.log(sums[ends] / sums[-1])
    return np.where(np.isnan(found), np.inf, found)


def squared_errors(counts: Counts, ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Summed squared error, in squared bin widths, of INT8 whose threshold is the upper edge of the first `ends` bins.

    Values are taken as evenly spread within their bin. Below the threshold, ∫ (t − s · round(t / s))² dt from 0 to x is
    s³ (n / 12 + r³ / 3), where s = end / 127, n = round(x / s), r = x / s − n; behind it, errors are (t − end)².
    """
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


def _running(values: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, … and all values."""
    sums = np.zeros(values.size + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def _entropic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count · log(count), which is 0 for none."""
    logs: NDArray[np.float64] = values * np.log(np.maximum(values, 1.0))
    return logs
