"""Check of the arrays that a caller passes against the inputs that an engine or bundle declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deploykit.core.shapes import format_shape
from deploykit.core.values import BatchRange, TensorSpec


def find_input_mismatch(
    specs: tuple[TensorSpec, ...],
    arrays: Any,
    owner: str,
    batch: BatchRange | None = None,
    *,
    array_type: type = np.ndarray,
    accept_float32: bool = False,
) -> str | None:
    """Why `arrays` do not match the inputs `specs` of `owner`, as a clause without a full stop; None where they match.

    Sizes of a named axis must agree among the inputs, and those of a leading named axis must lie in `batch`. Arrays are
    instances of `array_type`, which has `dtype` and `shape`. With `accept_float32` a float16 input takes float32, which
    the caller rounds.
    """
    if not isinstance(arrays, Mapping):
        return f"the inputs are a {type(arrays).__name__}, not a dictionary of arrays by name"
    names = [spec.name for spec in specs]
    if unknown := [name for name in arrays if name not in names]:
        return f"the {owner} has no input {unknown[0]!r}"
    if missing := [name for name in names if name not in arrays]:
        return f"the input {missing[0]!r} is missing"
    sizes: dict[str, int] = {}
    for spec in specs:
        if not isinstance(arrays[spec.name], array_type):
            return f"{spec.name} is a {type(arrays[spec.name]).__name__}, not an array"
        array: Any = arrays[spec.name]
        rounded = accept_float32 and spec.dtype == "float16" and array.dtype == "float32"
        if array.dtype != spec.dtype and not rounded:
            return f"{spec.name} is {array.dtype}, not {spec.dtype}"
        if problem := _find_shape_mismatch(spec, array.shape, owner, batch, sizes):
            return problem
    return None


def _find_shape_mismatch(
    spec: TensorSpec, shape: tuple[int, ...], owner: str, batch: BatchRange | None, sizes: dict[str, int]
) -> str | None:
    """Compare one array's shape; `sizes` collects the sizes of named axes."""
    axes = list(zip(shape, spec.shape, strict=False))
    if len(shape) != len(spec.shape) or any(isinstance(axis, int) and axis != size for size, axis in axes):
        return f"{spec.name} is {format_shape(shape)}, not {format_shape(spec.shape)}"
    for size, axis in axes:
        if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
            return f"{spec.name} has a {axis} of {size}, another input has one of {sizes[axis]}"
    if batch is None or not spec.shape or isinstance(spec.shape[0], int):
        return None
    if batch.minimum <= shape[0] <= batch.maximum:
        return None
    accepted = f"{batch.minimum} to {batch.maximum}" if batch.minimum < batch.maximum else f"{batch.minimum}"
    return f"{spec.name} has a batch of {shape[0]}, and the {owner} accepts {accepted}"
