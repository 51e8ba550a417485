"""Arrays of other libraries in GPU memory, read in place."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any, Final, NamedTuple

import numpy as np

from deploykit.backends.gpu.memory import DeviceBlock
from deploykit.backends.gpu.memory_library import LEGACY_STREAM, ForeignContext, MemoryLibrary
from deploykit.core.errors import BackendError, InputError

ALIGNMENT: Final = 256
"""Bytes: TensorRT's required alignment of tensor addresses. CUDA's allocations have it, a slice of a tensor may not."""


class DeviceArray(NamedTuple):
    """An array in GPU memory that another library owns."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None
    """The stream that is still writing the array; None where it is complete."""
    owner: object
    """The array's owner, kept alive while the array is in use."""


def read_device_array(name: str, array: object) -> DeviceArray:
    """Read the `__cuda_array_interface__` of the input `name`; arrays with DLPack only go through PyTorch or CuPy.

    InputError for an object that is not an array on this GPU, or not contiguous in C order.
    """
    _require_first_gpu(name, array)
    described = _read_array_interface(name, array)
    if described is None and hasattr(array, "__dlpack__"):
        array = _import_dlpack(name, array)
        described = _read_array_interface(name, array)
    if described is None:
        what = f"{name} is not an array in GPU memory."
        raise InputError(what, "Pass host arrays to run, device arrays to run_device.")
    shape, dtype = tuple(map(int, described["shape"])), np.dtype(described["typestr"])
    if not _is_contiguous(shape, described.get("strides"), dtype.itemsize):
        raise InputError(f"{name} is not contiguous in C order.", "Pass a contiguous copy: .contiguous() in PyTorch.")
    if described.get("mask") is not None:
        raise InputError(f"{name} has a mask, which engines do not support.", "Pass the array without a mask.")
    address, _read_only = described["data"]
    return DeviceArray(int(address or 0), shape, dtype, _writing_stream(array, described), array)


def _read_array_interface(name: str, array: object) -> dict[str, Any] | None:
    try:
        described: dict[str, Any] | None = getattr(array, "__cuda_array_interface__", None)
    except (RuntimeError, TypeError) as error:  # PyTorch's error for a tensor that requires a gradient
        what = f"{name} does not expose its GPU memory: {_first_line(error)}."
        raise InputError(what, "Pass the result of .detach().") from error
    return described


CUDA_DEVICES: Final = (2, 13)
"""DLPack's device types kDLCUDA and kDLCUDAManaged."""


def _require_first_gpu(name: str, array: object) -> None:
    """Require the first visible GPU. The array interface does not name the GPU; DLPack does, where supported."""
    if not hasattr(array, "__dlpack_device__"):
        return
    kind, number = array.__dlpack_device__()
    if int(kind) in CUDA_DEVICES and number != 0:
        what = f"{name} is on GPU {number}, but the engine runs on the first visible one."
        raise InputError(what, "Copy it there, or select the GPU with CUDA_VISIBLE_DEVICES.")


def _import_dlpack(name: str, array: object) -> object:
    """The same memory as an array of CuPy or PyTorch, which support `__cuda_array_interface__`."""
    refusals = []
    for library in ("cupy", "torch"):
        try:
            return importlib.import_module(library).from_dlpack(array)
        except ImportError:
            refusals.append(f"{library} is not installed")
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            refusals.append(f"{library}: {_first_line(error)}")
    what = f"{name} only supports DLPack, which neither CuPy nor PyTorch could convert"
    raise BackendError(f"{what} ({'; '.join(refusals)}).", "Pass an array with __cuda_array_interface__.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    """Whether elements are contiguous in C order. No strides mean C order; an axis of one element, or an empty array,
    may have any stride.
    """
    if strides is None or 0 in shape:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


UNNAMED_STREAM: Final = -1
"""For arrays described by an earlier version: any stream may still be writing them."""


def _writing_stream(array: object, described: dict[str, Any]) -> int | None:
    """The stream that writes the array. PyTorch uses version 2, which names none: its current stream is used."""
    if "stream" in described:
        stream = described["stream"]
        return None if stream is None else int(stream)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return int(torch.cuda.current_stream(array.device).cuda_stream) or LEGACY_STREAM
    return UNNAMED_STREAM


def wait_for(name: str, array: DeviceArray, library: MemoryLibrary, stream: Any) -> None:
    """Make `stream` wait until the input `name` is written, within `on_gpu`. The whole context is waited for only where
    no stream is named, or where pycuda is alone: see `MemoryLibrary.wait_for_stream`.

    InputError where the array's stream is not one of the primary context.
    """
    if array.stream == UNNAMED_STREAM:
        library.wait_for_all_streams()
    elif array.stream is not None:
        try:
            library.wait_for_stream(stream, array.stream)
        except ForeignContext as error:
            what = f"{name} is written on a stream of another CUDA context than the GPU's primary one."
            remedy = "Create it in the primary context. With pycuda: import pycuda.autoprimaryctx, not pycuda.autoinit."
            raise InputError(what, remedy) from error


def align_array(name: str, array: DeviceArray, library: MemoryLibrary, stream: Any) -> DeviceArray | DeviceBlock:
    """The array itself, or an aligned copy where its address is not a multiple of ALIGNMENT; within `on_gpu`."""
    if array.address % ALIGNMENT == 0:
        return array
    nbytes = math.prod(array.shape) * array.dtype.itemsize
    block = DeviceBlock(library, nbytes, f"A copy of {name}, whose address is not a multiple of {ALIGNMENT},")
    library.copy_on_gpu(block.address, array.address, nbytes, stream)
    return block
