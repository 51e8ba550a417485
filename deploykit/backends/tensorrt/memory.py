"""GPU and page-locked buffers, and in-place access to arrays of other libraries. pycuda owns the memory.

All calls use the GPU's primary context, like PyTorch, CuPy and TensorRT itself, so that pointers are valid for all of
them. It is pushed before and popped after each call: pycuda ends the process if a thread ends with a context on its
stack. pycuda frees memory only in the thread that created the context object, or with that same object current: so
there is one object per process, and the thread that drops the last reference to a buffer pushes it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from deploykit.backends.tensorrt.driver import query_driver
from deploykit.core.errors import BackendError, InputError
from deploykit.core.extras import install_command
from deploykit.core.values import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNMENT: Final = 256
"""Bytes: TensorRT's required alignment of tensor addresses. CUDA's allocations have it, a slice of a tensor may not."""


def import_pycuda() -> Any:
    """Import pycuda.driver. BackendError where it is not installed or cannot be imported."""
    try:
        import pycuda.driver
    except ImportError as error:
        remedy = (
            "Put the CUDA toolkit's nvcc on the PATH, which pycuda is compiled with, and install it with:\n"
            f"  {install_command('gpu')}"
        )
        raise BackendError(f"GPU memory needs pycuda, which cannot be imported: {error}.", remedy) from error
    return pycuda.driver


@functools.cache
def _primary_context() -> Any:
    """The primary context of the first visible GPU, retained until the process ends."""
    if (reason := query_driver().missing_reason) is not None:
        raise BackendError(f"There is no GPU to run on: {reason}.", "Run it on a machine with an NVIDIA GPU.")
    cuda = import_pycuda()
    cuda.init()
    return cuda.Device(0).retain_primary_context()


_RETAINING: Final = threading.Lock()
"""Without it, two threads with a first call at the same time would get a context object each."""


@contextlib.contextmanager
def on_gpu(doing: str) -> Iterator[Any]:
    """Yield pycuda.driver with the primary context current; CUDA errors are raised as BackendError.

    `doing` is a phrase for the message: "copying inputs".
    """
    with _RETAINING:
        context = _primary_context()
    cuda = import_pycuda()
    try:
        context.push()
        try:
            yield cuda
        finally:
            context.pop()
    except cuda.MemoryError as error:
        raise BackendError(f"The GPU ran out of memory while {doing}: {error}.", USE_LESS_MEMORY) from error
    except cuda.Error as error:
        remedy = "After such an error the process cannot use the GPU: restart it. If it fails again: deploykit doctor."
        raise BackendError(f"CUDA failed while {doing}: {error}.", remedy) from error


USE_LESS_MEMORY: Final = "Use a smaller batch, or close what else uses this GPU."


class DeviceBlock:
    """GPU memory, freed when the last reference is dropped, in any thread."""

    def __init__(self, nbytes: int, what: str) -> None:
        """Allocate `nbytes` within `on_gpu`. BackendError with the requested and the free memory."""
        cuda = import_pycuda()
        try:
            allocation = cuda.mem_alloc(max(nbytes, 1))
        except cuda.MemoryError as error:
            free, total = cuda.mem_get_info()
            problem = f"{what} needs {nbytes} bytes of GPU memory; {free} of {total} bytes are free."
            raise BackendError(problem, USE_LESS_MEMORY) from error
        self.address = int(allocation)
        self.nbytes = nbytes
        weakref.finalize(self, _free_allocation, allocation)

    @classmethod
    def for_tensor(cls, spec: TensorSpec, shape: tuple[int, ...]) -> DeviceBlock:
        """Allocate a tensor of that shape."""
        return cls(math.prod(shape) * np.dtype(spec.dtype).itemsize, f"The tensor {spec.name}")


def _free_allocation(allocation: Any) -> None:
    """Free it; errors are ignored. After a failed launch every CUDA call fails, and the driver frees memory at exit."""
    with contextlib.suppress(BackendError), on_gpu("freeing memory"):
        allocation.free()


class TensorBuffer:
    """One tensor's memory on the GPU and page-locked on the host, where the GPU copies without the processor.

    It grows to the largest batch used so far and is reused for smaller ones.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._what = f"The tensor {spec.name}"
        self._dtype = np.dtype(spec.dtype)
        self._block: DeviceBlock | None = None
        self._host: _PageLockedBlock | None = None
        self._shape: tuple[int, ...] = (0,)

    def resize(self, shape: tuple[int, ...]) -> None:
        """Make room for a tensor of that shape, within `on_gpu`. Addresses change only when it must grow."""
        self._shape = shape
        nbytes = math.prod(shape) * self._dtype.itemsize
        if self._block is None or self._block.nbytes < nbytes:
            self._block = self._host = None  # freed first: both may not fit at the same time
            self._block, self._host = DeviceBlock(nbytes, self._what), _PageLockedBlock(nbytes, self._what)

    @property
    def address(self) -> int:
        """The GPU address."""
        assert self._block is not None, "resize comes first"
        return self._block.address

    @property
    def host(self) -> NDArray[Any]:
        """The page-locked host array in the current shape: written before a copy in, read after a copy out."""
        assert self._host is not None, "resize comes first"
        nbytes = math.prod(self._shape) * self._dtype.itemsize
        return self._host.array[:nbytes].view(self._dtype).reshape(self._shape)


class _PageLockedBlock:
    """Page-locked host memory, which the GPU reads and writes directly."""

    def __init__(self, nbytes: int, what: str) -> None:
        cuda = import_pycuda()
        try:
            self.array: NDArray[Any] = cuda.pagelocked_empty(max(nbytes, 1), np.uint8)
        except cuda.MemoryError as error:
            problem = f"{what} needs {nbytes} bytes of page-locked host memory, which could not be allocated."
            raise BackendError(problem, "Use a smaller batch, or free host memory.") from error
        weakref.finalize(self, _free_allocation, self.array.base)


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
    what = f"{name} only supports DLPack, which pycuda cannot read, and neither CuPy nor PyTorch could convert it"
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


LEGACY_STREAM: Final = 1
"""The default stream, in version 3 of the array interface."""

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


def wait_for(writer: int | None, stream: Any) -> None:
    """Make `stream` wait for the stream `writer`, within `on_gpu`.

    pycuda records events on its own streams and the default one only; for any other, the whole device is synchronized.
    """
    cuda = import_pycuda()
    if writer == LEGACY_STREAM:
        event = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        event.record()
        stream.wait_for_event(event)
    elif writer is not None:
        cuda.Context.synchronize()


def align_array(name: str, array: DeviceArray, stream: Any) -> DeviceArray | DeviceBlock:
    """The array itself, or an aligned copy where its address is not a multiple of ALIGNMENT; within `on_gpu`."""
    if array.address % ALIGNMENT == 0:
        return array
    nbytes = math.prod(array.shape) * array.dtype.itemsize
    block = DeviceBlock(nbytes, f"A copy of {name}, whose address is not a multiple of {ALIGNMENT},")
    import_pycuda().memcpy_dtod_async(block.address, array.address, nbytes, stream)
    return block
