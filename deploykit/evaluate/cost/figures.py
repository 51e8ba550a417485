"""How the kinds write their figures: finite, in one unit, with an interval where it is honest."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure, CostUnit
from deploykit.evaluate.cost.intervals import share_interval

Array = NDArray[Any]


class Bound(NamedTuple):
    """The default bound of a figure, and why it has its value."""

    limit: float
    reason: str


def make_figure(name: str, value: float, unit: CostUnit, lower_is_better: bool = False) -> CostFigure:
    """A figure without an interval. Infinity becomes the largest float, since JSON has none."""
    return CostFigure(name, clamp_to_float(value), None, None, unit, lower_is_better=lower_is_better)


def make_share(name: str, parts: Array, wholes: Array, lower_is_better: bool = False) -> CostFigure:
    """Σ parts / Σ wholes, one of each per sample, with the interval over samples."""
    share, low, high = share_interval(parts, wholes)
    return CostFigure(name, share, low, high, "share", lower_is_better=lower_is_better)


def clamp_to_float(value: float) -> float:
    """Replace infinity by the largest float."""
    return min(max(float(value), -sys.float_info.max), sys.float_info.max)


def ratio_to_db(signal: float, noise: float) -> float:
    """10·log₁₀(signal / noise) of two powers: ∞ without noise, −∞ without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def has_integers(array: Array) -> bool:
    """Whether the elements are chosen classes (or tokens), and not their scores."""
    return array.dtype.kind in "iub"


def sum_to_one(array: Array, axis: int) -> bool:
    """Whether all values along the axis are probabilities that sum to 1, to a thousandth."""
    if array.shape[axis] < 2 or has_integers(array) or array.min() < -1e-6:
        return False
    sums = array.sum(axis=axis, dtype=np.float64)
    return bool(np.abs(sums - 1).max() <= 1e-3)
