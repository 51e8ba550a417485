"""Embeddings: does each vector point the same way?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost.figures import Bound, make_figure

Array = NDArray[Any]

SMALLEST_EMBEDDING: Final = 8
"""Smallest number of elements for a cosine: of one element it is ±1, of few it is high by chance."""

ENOUGH_SAMPLES: Final = 8
"""Samples from which their mean is not made of each of them."""

BOUNDS: Final = {
    "median cosine": Bound(
        0.8, "rounding by a third of the vector's length leaves 0.95; at 0.8 the error is three quarters of it"
    ),
    "median cosine about the mean": Bound(
        0.7,
        "vectors with a large common part have high cosines whatever the input; an error as large as what tells "
        "samples apart leaves 0.7",
    ),
}


def measure_embedding(reference: Array, candidate: Array) -> list[CostFigure]:
    """The worst and the median sample's cosine, ⟨r, c⟩ / (‖r‖·‖c‖), from −1 to 1; from 8 samples on the median with the
    reference's mean over samples subtracted from both. N×… of 8 elements or more per sample.
    """
    r, c = (array.reshape(len(array), -1).astype(np.float64) for array in (reference, candidate))
    cosines = _row_cosines(r, c)
    figures = [
        make_figure("worst cosine", float(cosines.min()), ""),
        make_figure("median cosine", float(np.median(cosines)), ""),
    ]
    if len(r) >= ENOUGH_SAMPLES:
        mean = r.mean(axis=0)
        about_mean = float(np.median(_row_cosines(r - mean, c - mean)))
        figures.append(make_figure("median cosine about the mean", about_mean, ""))
    return figures


def _row_cosines(r: Array, c: Array) -> Array:
    """Cosine of each row; 1 for two zero rows, 0 for one."""
    lengths = np.linalg.norm(r, axis=1) * np.linalg.norm(c, axis=1)
    both_zero = ~r.any(axis=1) & ~c.any(axis=1)
    cosines = (r * c).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    return np.where(lengths > 0, np.clip(cosines, -1, 1), both_zero.astype(np.float64))
