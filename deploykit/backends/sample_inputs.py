"""Inputs that an engine is profiled or timed with where no samples are at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import TensorSpec


def make_sample_inputs(inputs: tuple[TensorSpec, ...], batch: int) -> dict[str, NDArray[Any]]:
    """Random values, or zeros of an integer type, by name, with `batch` elements on every named axis."""
    rng = np.random.default_rng(0)
    arrays = {}
    for spec in inputs:
        shape = tuple(batch if isinstance(size, str) else size for size in spec.shape)
        is_float = np.issubdtype(spec.dtype, np.floating)
        arrays[spec.name] = (rng.standard_normal(shape) if is_float else np.zeros(shape)).astype(spec.dtype)
    return arrays
