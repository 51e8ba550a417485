"""Warm-up: a bundle's golden inputs as requests that every instance runs before it accepts others.

Triton reads a request's data from files in the model's folder `warmup`: raw tensor bytes without a header. With
`batch_size` n, the sample in the file is sent n times and run as one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from deploykit.core.values import BatchRange, TensorSpec
from deploykit.workflows.triton.model_config import WarmupInput, WarmupRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER: Final = "warmup"


class WarmupFiles(NamedTuple):
    """The warm-up requests for config.pbtxt, and their data files by path in the model's folder."""

    warmups: tuple[WarmupRequest, ...]
    files: Mapping[str, bytes]


def plan_sample_warmup(
    specs: tuple[TensorSpec, ...], golden: Mapping[str, NDArray[Any]], batch: BatchRange
) -> WarmupFiles:
    """Plan the warm-up of a batched model: the first golden sample at the minimum, optimum and maximum batch, so that
    memory and kernels are set up before the first request.
    """
    inputs, files = _make_inputs(specs, {spec.name: golden[spec.name][0] for spec in specs})
    sizes = sorted({batch.minimum, batch.optimum, batch.maximum})
    return WarmupFiles(tuple(WarmupRequest(f"batch-{size}", size, inputs) for size in sizes), files)


def plan_batch_warmup(
    specs: tuple[TensorSpec, ...], golden: Mapping[str, NDArray[Any]], batch: BatchRange
) -> WarmupFiles:
    """Plan the warm-up of a model without batching: as many golden samples as a tensor has, repeated if necessary."""
    arrays = {spec.name: _fill_batch(golden[spec.name], spec.shape, batch) for spec in specs}
    inputs, files = _make_inputs(specs, arrays)
    return WarmupFiles((WarmupRequest("batch", 1, inputs),), files)


def _fill_batch(array: NDArray[Any], shape: tuple[int | str, ...], batch: BatchRange) -> NDArray[Any]:
    first = shape[0] if shape else 1
    count = first if isinstance(first, int) else batch.optimum
    return array[np.arange(count) % len(array)]


def _make_inputs(
    specs: tuple[TensorSpec, ...], arrays: Mapping[str, NDArray[Any]]
) -> tuple[tuple[WarmupInput, ...], dict[str, bytes]]:
    """Convert the arrays to the inputs' types: golden vectors of an FP16 input are stored in FP32."""
    inputs, files = [], {}
    for index, spec in enumerate(specs):
        array = arrays[spec.name]
        name = f"input-{index}.bin"  # the tensor's name may not be a valid file name
        little_endian = np.dtype(spec.dtype).newbyteorder("<")
        files[f"{FOLDER}/{name}"] = np.ascontiguousarray(array, dtype=little_endian).tobytes()
        inputs.append(WarmupInput(spec.name, spec.dtype, array.shape, name))
    return tuple(inputs), files
