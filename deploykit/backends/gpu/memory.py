"""GPU and page-locked buffers in the GPU's primary context, by pycuda or cuda-bindings.

All calls use the GPU's primary context, like PyTorch, CuPy and TensorRT itself, so that pointers are valid for all of
them. It is pushed before and popped after each call, and while the memory of a dropped buffer is freed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploykit.backends.gpu.driver import query_driver
from deploykit.backends.gpu.memory_bindings import CudaBindings
from deploykit.backends.gpu.memory_library import INSTALLED_FIRST, REFUSED_IMPORT, Context, MemoryLibrary
from deploykit.backends.gpu.memory_pycuda import Pycuda
from deploykit.core.errors import BackendError
from deploykit.core.extras import pip_command
from deploykit.core.values import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIBRARIES: Final[dict[str, Callable[[], MemoryLibrary]]] = {"pycuda": Pycuda, "cuda-bindings": CudaBindings}
"""In order of preference."""


def import_memory_library() -> tuple[MemoryLibrary | None, dict[str, str]]:
    """The first of LIBRARIES that can be imported, and by name why those before it cannot. It makes no CUDA call."""
    refusals: dict[str, str] = {}
    for name, load in LIBRARIES.items():
        try:
            return load(), refusals
        except REFUSED_IMPORT as error:
            refusals[name] = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return None, refusals


@functools.cache
def load_memory_library() -> MemoryLibrary:
    """The library that this process uses. BackendError where none can be imported."""
    library, refusals = import_memory_library()
    if library is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        what = f"GPU memory needs cuda-bindings or pycuda, and neither can be imported ({reasons})."
        raise BackendError(
            what, f"Install {INSTALLED_FIRST}, which needs no compiler:\n  {pip_command('install', INSTALLED_FIRST)}"
        )
    return library


class _PrimaryContext:
    """The primary context of the first visible GPU, retained at the first call and until the process ends.

    There is one object per process: pycuda frees memory only under the object with which it was allocated.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """Not a Lock: the garbage collector may run a finalizer that enters `on_gpu` while this thread holds it."""
        self._context: Context | None = None

    def retain(self, library: MemoryLibrary) -> Context:
        """Retain the context, or return the one that was retained. Raises the library's errors."""
        if self._context is None:
            with self._lock:
                if self._context is None:
                    context = library.retain_context()
                    if self._context is None:  # no finalizer within that call came first
                        self._context = context
        return self._context


_PRIMARY_CONTEXT: Final = _PrimaryContext()


@contextlib.contextmanager
def on_gpu(doing: str) -> Iterator[MemoryLibrary]:
    """Yield the memory library with the primary context current; CUDA errors are raised as BackendError.

    `doing` is a phrase for the message: "copying inputs".
    """
    if (reason := query_driver().missing_reason) is not None:
        raise BackendError(f"There is no GPU to run on: {reason}.", "Run it on a machine with an NVIDIA GPU.")
    library = load_memory_library()
    try:
        context = _PRIMARY_CONTEXT.retain(library)
        context.push()
        try:
            yield library
        finally:
            context.pop()
    except library.out_of_memory as error:
        raise BackendError(f"The GPU ran out of memory while {doing}: {error}.", USE_LESS_MEMORY) from error
    except library.errors as error:
        remedy = "After such an error the process cannot use the GPU: restart it. If it fails again: deploykit doctor."
        raise BackendError(f"CUDA failed while {doing}: {error}.", remedy) from error


USE_LESS_MEMORY: Final = "Use a smaller batch, or close what else uses this GPU."


class DeviceBlock:
    """GPU memory, freed when the last reference is dropped, in any thread."""

    def __init__(self, library: MemoryLibrary, nbytes: int, what: str) -> None:
        """Allocate `nbytes` within `on_gpu`. BackendError with the requested and the free memory."""
        try:
            allocation = library.allocate(max(nbytes, 1))
        except library.out_of_memory as error:
            free, total = library.read_memory_info()
            problem = f"{what} needs {nbytes} bytes of GPU memory; {free} of {total} bytes are free."
            raise BackendError(problem, USE_LESS_MEMORY) from error
        self.address = int(allocation)
        self.nbytes = nbytes
        weakref.finalize(self, _free_memory, allocation)

    @classmethod
    def for_tensor(cls, library: MemoryLibrary, spec: TensorSpec, shape: tuple[int, ...]) -> DeviceBlock:
        """Allocate a tensor of that shape."""
        return cls(library, math.prod(shape) * np.dtype(spec.dtype).itemsize, f"The tensor {spec.name}")


def _free_memory(owner: Any) -> None:
    """Free it; errors are ignored. After a failed launch every CUDA call fails, and the driver frees memory at exit."""
    with contextlib.suppress(BackendError), on_gpu("freeing memory"):
        owner.free()


class TensorBuffer:
    """One tensor's memory on the GPU and page-locked on the host, where the GPU copies without the processor.

    It grows to the largest batch used so far and is reused for smaller ones.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._what = f"The tensor {spec.name}"
        self._dtype = np.dtype(spec.dtype)
        self._blocks: tuple[DeviceBlock, _PageLockedBlock] | None = None
        self._host: NDArray[Any] | None = None
        self._nbytes = 0

    def resize(self, library: MemoryLibrary, shape: tuple[int, ...]) -> None:
        """Make room for a tensor of that shape, within `on_gpu`. Addresses change only when it must grow."""
        if self._host is not None and self._host.shape == shape:
            return
        nbytes = math.prod(shape) * self._dtype.itemsize
        if self._blocks is None or self._blocks[0].nbytes < nbytes:
            self._blocks = self._host = None  # freed first: both may not fit at the same time
            self._blocks = DeviceBlock(library, nbytes, self._what), _PageLockedBlock(library, nbytes, self._what)
        self._nbytes = nbytes
        self._host = self._blocks[1].memory.array[:nbytes].view(self._dtype).reshape(shape)

    @property
    def address(self) -> int:
        """The GPU address."""
        assert self._blocks is not None, "resize comes first"
        return self._blocks[0].address

    @property
    def host(self) -> NDArray[Any]:
        """The page-locked host array in the current shape: written before a copy in, read after a copy out."""
        assert self._host is not None, "resize comes first"
        return self._host

    def copy_in(self, library: MemoryLibrary, stream: Any) -> None:
        """Enqueue the copy from the host to the GPU."""
        assert self._blocks is not None, "resize comes first"
        device, host = self._blocks
        library.copy_to_gpu(device.address, host.memory, self._nbytes, stream)

    def copy_out(self, library: MemoryLibrary, stream: Any) -> None:
        """Enqueue the copy from the GPU to the host."""
        assert self._blocks is not None, "resize comes first"
        device, host = self._blocks
        library.copy_to_host(host.memory, device.address, self._nbytes, stream)


class _PageLockedBlock:
    """Page-locked host memory, freed when the last reference is dropped."""

    def __init__(self, library: MemoryLibrary, nbytes: int, what: str) -> None:
        try:
            self.memory = library.allocate_page_locked(max(nbytes, 1))
        except library.out_of_memory as error:
            problem = f"{what} needs {nbytes} bytes of page-locked host memory, which could not be allocated."
            raise BackendError(problem, "Use a smaller batch, or free host memory.") from error
        weakref.finalize(self, _free_memory, self.memory.owner)
