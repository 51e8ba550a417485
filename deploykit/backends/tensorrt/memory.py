"""Buffers on both sides of the bus, and arrays of other libraries read where they lie. pycuda owns the memory.

Everything happens in the GPU's primary context, the one that PyTorch, CuPy and TensorRT itself use, so that pointers
are valid for all of them. It is pushed around each call and popped behind it: pycuda ends the process where a thread
ends with a context still on its stack. And pycuda gives memory back only in the thread that made the context object, or
under that very object: so there is one per process, and whichever thread drops a buffer last pushes it.
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

from deploykit.backends.tensorrt.driver import driver
from deploykit.core.errors import BackendError, InputError
from deploykit.core.values import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNMENT: Final = 256
"""Bytes; what TensorRT asks of a tensor's address. CUDA's allocations have it, a slice of a tensor may not."""


def pycuda() -> Any:
    """pycuda.driver. BackendError where it is not installed or cannot be used."""
    try:
        import pycuda.driver
    except ImportError as error:
        remedy = (
            "pip install 'deploykit[gpu]' (it is compiled against the CUDA toolkit, whose nvcc must be on the PATH)."
        )
        raise BackendError(f"GPU memory needs pycuda, which cannot be imported: {error}.", remedy) from error
    return pycuda.driver


@functools.cache
def _primary() -> Any:
    """The primary context of the first visible GPU, kept until the process ends."""
    if (absence := driver().absence) is not None:
        raise BackendError(f"There is no GPU to run on: {absence}.", "Run it on a machine with an NVIDIA GPU.")
    cuda = pycuda()
    cuda.init()
    return cuda.Device(0).retain_primary_context()


_RETAINING: Final = threading.Lock()
"""Two threads that come first together would else get a context object each."""


@contextlib.contextmanager
def on_gpu(doing: str) -> Iterator[Any]:
    """Yields pycuda.driver with the primary context current; what CUDA refuses becomes a BackendError.

    `doing` is half a sentence for the message: "copying inputs".
    """
    with _RETAINING:
        context = _primary()
    cuda = pycuda()
    try:
        context.push()
        try:
            yield cuda
        finally:
            context.pop()
    except cuda.MemoryError as error:
        raise BackendError(f"The GPU ran out of memory while {doing}: {error}.", LESS) from error
    except cuda.Error as error:
        remedy = "A CUDA error of this kind leaves the process without its GPU: start it anew; then deploykit doctor."
        raise BackendError(f"CUDA failed while {doing}: {error}.", remedy) from error


LESS: Final = "Use a smaller batch, or close what else uses this GPU."


class Block:
    """GPU memory, given back when the last reference to it goes, in whichever thread that happens."""

    def __init__(self, nbytes: int, what: str) -> None:
        """Under `on_gpu`. BackendError that says how much was asked for `what` and how much was free."""
        cuda = pycuda()
        try:
            allocation = cuda.mem_alloc(max(nbytes, 1))
        except cuda.MemoryError as error:
            free, total = cuda.mem_get_info()
            told = f"{what} needs {nbytes} bytes of GPU memory; {free} of {total} bytes are free."
            raise BackendError(told, LESS) from error
        self.address = int(allocation)
        self.nbytes = nbytes
        weakref.finalize(self, _free, allocation)

    @classmethod
    def of(cls, spec: TensorSpec, shape: tuple[int, ...]) -> Block:
        """Room for that tensor in that shape."""
        return cls(math.prod(shape) * np.dtype(spec.dtype).itemsize, f"The tensor {spec.name}")


def _free(allocation: Any) -> None:
    """Also after a failed launch, when CUDA refuses everything: then the driver takes the memory back at exit."""
    with contextlib.suppress(BackendError), on_gpu("freeing memory"):
        allocation.free()


class Buffer:
    """One tensor's memory: on the GPU, and page-locked on the host, where the GPU copies without the processor.

    It grows with the largest batch that came and is used again for every smaller one.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._what = f"The tensor {spec.name}"
        self._dtype = np.dtype(spec.dtype)
        self._block: Block | None = None
        self._host: _PageLocked | None = None
        self._shape: tuple[int, ...] = (0,)

    def fit(self, shape: tuple[int, ...]) -> None:
        """Make room for a tensor of that shape. Under `on_gpu`; addresses stay as they were unless it must grow."""
        self._shape = shape
        nbytes = math.prod(shape) * self._dtype.itemsize
        if self._block is None or self._block.nbytes < nbytes:
            self._block = self._host = None  # the old one goes first: both may not fit beside each other
            self._block, self._host = Block(nbytes, self._what), _PageLocked(nbytes, self._what)

    @property
    def address(self) -> int:
        """On the GPU."""
        assert self._block is not None, "fit comes first"
        return self._block.address

    @property
    def host(self) -> NDArray[Any]:
        """The host's side, in the shape that was last fitted: written before a copy in, read after a copy out."""
        assert self._host is not None, "fit comes first"
        nbytes = math.prod(self._shape) * self._dtype.itemsize
        return self._host.array[:nbytes].view(self._dtype).reshape(self._shape)


class _PageLocked:
    """Host memory that the GPU can read and write by itself."""

    def __init__(self, nbytes: int, what: str) -> None:
        cuda = pycuda()
        try:
            self.array: NDArray[Any] = cuda.pagelocked_empty(max(nbytes, 1), np.uint8)
        except cuda.MemoryError as error:
            told = f"{what} needs {nbytes} bytes of page-locked host memory, which the driver did not give."
            raise BackendError(told, "Use a smaller batch, or free memory of the host.") from error
        weakref.finalize(self, _free, self.array.base)


class DeviceArray(NamedTuple):
    """An array in GPU memory that somebody else owns."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None
    """That its content is being written on; None: it is there already."""
    owner: object
    """Kept alive while the array is in use."""


def device_array(name: str, array: object) -> DeviceArray:
    """What `__cuda_array_interface__` says of the input `name`. What speaks DLPack alone goes through PyTorch or CuPy.

    InputError for what is no array on this GPU, or whose elements are not dense in C order.
    """
    _on_this_gpu(name, array)
    described = _described(name, array)
    if described is None and hasattr(array, "__dlpack__"):
        array = _through_dlpack(name, array)
        described = _described(name, array)
    if described is None:
        raise InputError(f"{name} is no array in GPU memory.", "Give host arrays to run, device arrays to run_device.")
    shape, dtype = tuple(map(int, described["shape"])), np.dtype(described["typestr"])
    if not _dense(shape, described.get("strides"), dtype.itemsize):
        raise InputError(f"{name} is not dense in C order.", "Give a contiguous copy: .contiguous() in PyTorch.")
    if described.get("mask") is not None:
        raise InputError(f"{name} has a mask, which no engine heeds.", "Give the plain array.")
    address, _read_only = described["data"]
    return DeviceArray(int(address or 0), shape, dtype, _stream(array, described), array)


def _described(name: str, array: object) -> dict[str, Any] | None:
    try:
        described: dict[str, Any] | None = getattr(array, "__cuda_array_interface__", None)
    except (RuntimeError, TypeError) as error:  # PyTorch's word for a tensor that requires a gradient
        told = f"{name} does not give its GPU memory away: {_first_line(error)}."
        raise InputError(told, "Give .detach() of it.") from error
    return described


CUDA_DEVICES: Final = (2, 13)
"""kDLCUDA and kDLCUDAManaged in DLPack's numbers."""


def _on_this_gpu(name: str, array: object) -> None:
    """The array interface does not say on which GPU the memory lies; DLPack does, where the array speaks it too."""
    if not hasattr(array, "__dlpack_device__"):
        return
    kind, number = array.__dlpack_device__()
    if int(kind) in CUDA_DEVICES and number != 0:
        told = f"{name} lies on GPU {number}, and the engine runs on the first visible one."
        raise InputError(told, "Copy it there, or choose the GPU with CUDA_VISIBLE_DEVICES.")


def _through_dlpack(name: str, array: object) -> object:
    """The same memory as a tensor of PyTorch's or an array of CuPy's, which describe it as pycuda needs it."""
    refusals = []
    for library in ("cupy", "torch"):
        try:
            return importlib.import_module(library).from_dlpack(array)
        except ImportError:
            refusals.append(f"{library} is not installed")
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            refusals.append(f"{library}: {_first_line(error)}")
    told = f"{name} speaks DLPack alone, which pycuda does not read, and neither CuPy nor PyTorch could translate it"
    raise BackendError(f"{told} ({'; '.join(refusals)}).", "Give an array with __cuda_array_interface__.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _dense(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    """No strides mean C order by definition. An axis of one element, or an empty array, may have any stride."""
    if strides is None or 0 in shape:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


LEGACY_STREAM: Final = 1
"""The default stream, in the numbers of the array interface's version 3."""

UNNAMED_STREAM: Final = -1
"""Of an array described by an earlier version: it may still be written on any stream."""


def _stream(array: object, described: dict[str, Any]) -> int | None:
    """The stream that writes the array. PyTorch describes its tensors by version 2, which names none: it is asked."""
    if "stream" in described:
        stream = described["stream"]
        return None if stream is None else int(stream)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return int(torch.cuda.current_stream(array.device).cuda_stream) or LEGACY_STREAM
    return UNNAMED_STREAM


def wait_for(writer: int | None, stream: Any) -> None:
    """Let `stream` begin only when `writer` is done. Under `on_gpu`.

    pycuda records events on its own streams and on the default one; for any other, the whole device is waited for.
    """
    cuda = pycuda()
    if writer == LEGACY_STREAM:
        event = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        event.record()
        stream.wait_for_event(event)
    elif writer is not None:
        cuda.Context.synchronize()


def aligned(name: str, array: DeviceArray, stream: Any) -> DeviceArray | Block:
    """The array where it lies, or a copy of it where that is no address for a tensor. Under `on_gpu`."""
    if array.address % ALIGNMENT == 0:
        return array
    nbytes = math.prod(array.shape) * array.dtype.itemsize
    block = Block(nbytes, f"A copy of {name}, whose address is no multiple of {ALIGNMENT},")
    pycuda().memcpy_dtod_async(block.address, array.address, nbytes, stream)
    return block
