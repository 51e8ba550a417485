"""What the runner needs of a CUDA library: contexts, memory, copies, streams and events.

Two files implement it, `memory_pycuda` and `memory_bindings`; `memory` uses the first of them that can be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEGACY_STREAM: Final = 1
"""The default stream, in version 3 of the array interface and in the driver: CU_STREAM_LEGACY."""

NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: work of other libraries on the default stream neither waits nor breaks a capture."""

DISABLE_TIMING: Final = 2
"""CU_EVENT_DISABLE_TIMING."""

REFUSED_IMPORT: Final = (ImportError, OSError, RuntimeError)
"""What a compiled module raises where it is missing, or was compiled for another library, NumPy or driver."""


INSTALLED_FIRST: Final = "cuda-bindings"
"""The library to install where neither is: it needs no compiler."""


class ForeignContext(Exception):
    """A stream belongs to another CUDA context than the primary one."""


class Context(Protocol):
    """The primary context of the first visible GPU, retained until the process ends."""

    def push(self) -> None:
        """Make it the calling thread's current one."""

    def pop(self) -> None:
        """Restore the one that was current before."""


class Allocation(Protocol):
    """GPU memory at the address `int(allocation)`."""

    def __int__(self) -> int: ...

    def free(self) -> None:
        """Free it. The context in which it was allocated is current."""


class HostMemory(NamedTuple):
    """Page-locked host memory, which the GPU reads and writes directly."""

    array: NDArray[np.uint8]
    address: int
    owner: Any
    """Its method `free()` frees the memory; it is the array's base."""


class Stream(Protocol):
    """A stream that does not wait for the default one. Dropping it destroys it, with the context current."""

    @property
    def handle(self) -> int: ...

    def synchronize(self) -> None:
        """Wait for all work on the stream."""


class Event(Protocol):
    """A timed event. Dropping it destroys it, with the context current."""

    def record(self, stream: Any) -> object:
        """Record it on a stream of the same library."""

    def time_till(self, end: Any) -> float:
        """Milliseconds between two recorded events, after their stream was synchronized."""


class MemoryLibrary(Protocol):
    """All but `retain_context` needs the context current. Failures are raised as one of `errors`."""

    @property
    def name(self) -> str:
        """Library and version: `pycuda 2026.1`, `cuda-bindings 13.5.0`."""

    @property
    def errors(self) -> tuple[type[Exception], ...]: ...

    @property
    def out_of_memory(self) -> tuple[type[Exception], ...]:
        """Those of `errors` that report exhausted memory, of the GPU or page-locked."""

    def retain_context(self) -> Context: ...

    def allocate(self, nbytes: int) -> Allocation: ...

    def read_memory_info(self) -> tuple[int, int]:
        """Free and total bytes of GPU memory."""

    def allocate_page_locked(self, nbytes: int) -> HostMemory: ...

    def copy_to_gpu(self, target: int, source: HostMemory, nbytes: int, stream: Any) -> None:
        """Enqueue a copy of the first bytes of `source` to the address `target`."""

    def copy_to_host(self, target: HostMemory, source: int, nbytes: int, stream: Any) -> None:
        """Enqueue a copy from the address `source` to the first bytes of `target`."""

    def copy_on_gpu(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Enqueue a copy between two addresses of the GPU."""

    def create_stream(self) -> Stream: ...

    def create_event(self) -> Event: ...

    def wait_for_stream(self, stream: Any, writer: int) -> None:
        """Make `stream` wait for what another library has enqueued on the stream with the handle `writer`.

        ForeignContext where that stream is not the primary context's.
        """

    def wait_for_all_streams(self) -> None:
        """Wait until all work of the context is done."""
