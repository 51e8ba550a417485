"""CUDA graph capture of an enqueue: one launch instead of one per kernel.

pycuda has no graphs: cuda-bindings captures them, also on pycuda's streams, through the same driver API. Only the
enqueue is captured, not the copies, so that copies and computation can still be timed separately.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

from deploykit.core.errors import BackendError


class CaptureRefused(Exception):
    """Why there is no graph, as a clause. Nothing was enqueued, and an ordinary enqueue is still possible."""


class CapturedGraph:
    """An executable graph of one context's enqueue, for one set of shapes and addresses."""

    def __init__(self, cuda: Any, executable: Any) -> None:
        self._cuda = cuda
        self._executable = executable

    def launch(self, stream: int) -> None:
        """Enqueue the graph. CaptureRefused where the driver rejects it."""
        _call_driver(self._cuda, "cuGraphLaunch", self._executable, stream)

    def destroy(self) -> None:
        """Free the graph after its last launch; errors are ignored, since the memory is then lost anyway."""
        self._cuda.cuGraphExecDestroy(self._executable)


def capture_graph(stream: int, enqueue: Callable[[], None]) -> CapturedGraph:
    """Capture what `enqueue` puts on the stream with handle `stream`. CaptureRefused where that is impossible.

    The caller has enqueued once before at the same shapes and addresses: TensorRT does deferred work then, some of
    which is not allowed during capture. The restrictions of a capture apply to this thread only.
    """
    try:
        from cuda.bindings import driver as cuda
    except ImportError as error:
        raise CaptureRefused(f"cuda-bindings cannot be imported ({error})") from error
    with _paused_garbage_collection():
        graph = _record_graph(cuda, stream, enqueue)
    try:
        executable = _call_driver(cuda, "cuGraphInstantiate", graph, 0)
    finally:
        cuda.cuGraphDestroy(graph)
    return CapturedGraph(cuda, executable)


@contextlib.contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause Python's garbage collector: a finalizer that frees GPU memory in this thread would spoil the capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _record_graph(cuda: Any, stream: int, enqueue: Callable[[], None]) -> Any:
    """Record the graph. The capture is always ended: a stream left in capture mode is unusable."""
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    _call_driver(cuda, "cuStreamBeginCapture", stream, mode)
    try:
        enqueue()
    except BaseException as error:
        code, graph = cuda.cuStreamEndCapture(stream)
        if int(code) == 0:
            cuda.cuGraphDestroy(graph)
        if isinstance(error, BackendError):
            raise CaptureRefused(error.what.rstrip(".")) from error
        raise
    return _call_driver(cuda, "cuStreamEndCapture", stream)


def _call_driver(cuda: Any, name: str, *arguments: object) -> Any:
    """Call a driver function and return its result, if any. cuda-bindings returns a tuple with the error code first,
    and raises RuntimeError where the driver lacks the function.
    """
    try:
        code, *results = getattr(cuda, name)(*arguments)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CaptureRefused(f"{name} failed with {reason}") from error
    if int(code) != 0:
        raise CaptureRefused(f"{name} failed with {getattr(code, 'name', code)}")
    return results[0] if results else None
