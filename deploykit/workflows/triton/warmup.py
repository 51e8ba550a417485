"""Warm-up: a bundle's golden inputs as requests that every instance answers before it takes others.

Triton reads a request's data from files in the model's folder `warmup`: the elements as they lie in memory, without a
header. A request of `batch_size` n is n requests of the one sample in the file, run in one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from deploykit.core.values import BatchRange, TensorSpec
from deploykit.workflows.triton.served import Warmup, WarmupInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER: Final = "warmup"


class Prepared(NamedTuple):
    """What config.pbtxt says of warming up, and the files that it speaks of, by path in the model's folder."""

    warmups: tuple[Warmup, ...]
    files: Mapping[str, bytes]


def one_sample(specs: tuple[TensorSpec, ...], golden: Mapping[str, NDArray[Any]], batch: BatchRange) -> Prepared:
    """For a model that the server batches for: the first golden sample, at the smallest, best and largest batch.
    Neither memory nor kernels are first looked for when users wait.
    """
    inputs, files = _inputs(specs, {spec.name: golden[spec.name][0] for spec in specs})
    sizes = sorted({batch.minimum, batch.optimum, batch.maximum})
    return Prepared(tuple(Warmup(f"batch-{size}", size, inputs) for size in sizes), files)


def whole_batch(specs: tuple[TensorSpec, ...], golden: Mapping[str, NDArray[Any]], batch: BatchRange) -> Prepared:
    """For a model that takes whole tensors: as many golden samples as it takes, from the first again where there are
    fewer.
    """
    arrays = {spec.name: _filled(golden[spec.name], spec.shape, batch) for spec in specs}
    inputs, files = _inputs(specs, arrays)
    return Prepared((Warmup("batch", 1, inputs),), files)


def _filled(array: NDArray[Any], shape: tuple[int | str, ...], batch: BatchRange) -> NDArray[Any]:
    first = shape[0] if shape else 1
    count = first if isinstance(first, int) else batch.optimum
    return array[np.arange(count) % len(array)]


def _inputs(
    specs: tuple[TensorSpec, ...], arrays: Mapping[str, NDArray[Any]]
) -> tuple[tuple[WarmupInput, ...], dict[str, bytes]]:
    """The golden vectors of an FP16 input lie in FP32: here they become what the input takes."""
    inputs, files = [], {}
    for index, spec in enumerate(specs):
        array = arrays[spec.name]
        name = f"input-{index}.bin"  # the tensor's own name may be no file name
        little_endian = np.dtype(spec.dtype).newbyteorder("<")
        files[f"{FOLDER}/{name}"] = np.ascontiguousarray(array, dtype=little_endian).tobytes()
        inputs.append(WarmupInput(spec.name, spec.dtype, array.shape, name))
    return tuple(inputs), files
