"""Probabilities that differ by less than a step of their type: a text detector on a picture without text gives 10⁻⁶
everywhere, of which half is rounding, and no application can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from deploykit.core.values import Precision
from deploykit.evaluate.parity.metrics import Array

LAST_STEP: Final[Mapping[Precision, float]] = {
    "fp32": 2.0**-20,
    "fp16": 2.0**-10,
    "bf16": 2.0**-7,
    "int8": 1 / 127,
    "int8-fp16": 1 / 127,
}
"""Difference of two probabilities that means nothing at a precision: one step of the type at 1; at FP32 the rounding
of some sums."""


def is_negligible(reference: Array, candidate: Array, precision: Precision) -> bool:
    """Whether both hold numbers from 0 to 1 that nowhere differ by more than the precision's last step."""
    if reference.dtype.kind != "f" or not all(np.isfinite(array).all() for array in (reference, candidate)):
        return False
    if reference.min() < 0 or reference.max() > 1:
        return False
    difference = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
    return bool(difference.max() <= LAST_STEP[precision])
