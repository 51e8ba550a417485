"""Tensors of unknown meaning: how large is the error, compared with what tells samples apart?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost.figures import Bound, make_figure, ratio_to_db

Array = NDArray[Any]

SMALLEST_SPREAD: Final = 1e-4
"""Share of the tensor's root mean square below which samples do not differ: anchors, grids and priors are constants."""

BOUNDS: Final = {
    "SNR over the spread": Bound(
        3.0,
        "an error with half the power of what tells samples apart leaves a correlation of 0.8 with it; INT8 networks "
        "leave 8 to 30 dB, a constant 0 dB, another network's output -3 dB",
    )
}


def measure_tensor(reference: Array, candidate: Array) -> list[CostFigure]:
    """SNR over the spread in decibels, and quantiles of |Δ| in units of the spread.

    The spread is the root mean square of the reference about its mean over samples, element by element: what all
    samples share says nothing about the input. With one sample, or where samples do not differ, it is that about the
    mean of all elements, and without any that about zero.
    """
    errors = np.abs(np.subtract(candidate, reference, dtype=np.result_type(reference, np.float32)))
    spread = measure_spread(reference)
    power = float(np.square(errors, dtype=np.float64).mean())
    median, most, largest = np.quantile(errors, [0.5, 0.99, 1])
    scale = spread or 1.0  # an all-zero reference: errors in the output's own unit
    return [
        make_figure("SNR over the spread", ratio_to_db(spread**2, power), "dB"),
        make_figure("median error", median / scale, "spread", lower_is_better=True),
        make_figure("error, worst 1 %", most / scale, "spread", lower_is_better=True),
        make_figure("largest error", largest / scale, "spread", lower_is_better=True),
    ]


def measure_spread(reference: Array) -> float:
    """Root mean square of N×… about its mean over samples; see `measure_tensor` for what stands in for none."""
    size = float(np.sqrt(np.square(reference, dtype=np.float64).mean()))
    for mean in (reference.mean(axis=0, dtype=np.float64), reference.mean(dtype=np.float64)):
        spread = float(np.sqrt(np.square(reference - mean).mean()))
        if spread > SMALLEST_SPREAD * size:
            return spread
    return size
