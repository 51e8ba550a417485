"""One enqueue as a CUDA graph: the kernels of a batch launched by one call instead of one call each.

pycuda has no graphs; cuda-bindings captures them on the same stream, through the same driver API. What is captured is
the enqueue alone, not the copies, so that copies and computing can still be timed apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deploykit.core.errors import BackendError


class CaptureRefused(Exception):
    """Why there is no graph, as half a sentence. Nothing was enqueued, and a plain enqueue is still a way."""


class Capture:
    """A graph that can be launched: of one context's enqueue, at one shape, on one set of addresses."""

    def __init__(self, cuda: Any, executable: Any) -> None:
        self._cuda = cuda
        self._executable = executable

    def launch(self, stream: int) -> None:
        """Enqueue it all. CaptureRefused where the driver does not take it."""
        _call(self._cuda, "cuGraphLaunch", self._executable, stream)

    def destroy(self) -> None:
        """Give its memory back, after its last launch; a driver that refuses has lost it already."""
        self._cuda.cuGraphExecDestroy(self._executable)


def capture(stream: int, enqueue: Callable[[], None]) -> Capture:
    """Capture what `enqueue` puts on the stream of that handle. CaptureRefused where that cannot be.

    The caller has enqueued once before at the same shapes and addresses: TensorRT settles deferred work then, part of
    which no capture allows. What a capture forbids is forbidden to this thread alone, so others may go on.
    """
    try:
        from cuda.bindings import driver as cuda
    except ImportError as error:
        raise CaptureRefused(f"cuda-bindings cannot be imported ({error})") from error
    graph = _captured(cuda, stream, enqueue)
    try:
        executable = _call(cuda, "cuGraphInstantiate", graph, 0)
    finally:
        cuda.cuGraphDestroy(graph)
    return Capture(cuda, executable)


def _captured(cuda: Any, stream: int, enqueue: Callable[[], None]) -> Any:
    """The graph. Whatever happens in between, the capture is ended: a stream left capturing is of no more use."""
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    _call(cuda, "cuStreamBeginCapture", stream, mode)
    try:
        enqueue()
    except BaseException as error:
        code, graph = cuda.cuStreamEndCapture(stream)
        if int(code) == 0:
            cuda.cuGraphDestroy(graph)
        if isinstance(error, BackendError):
            raise CaptureRefused(error.what.rstrip(".")) from error
        raise
    return _call(cuda, "cuStreamEndCapture", stream)


def _call(cuda: Any, name: str, *arguments: object) -> Any:
    """The call's result, if it has one: cuda-bindings answers with a tuple, the error code first, and raises
    RuntimeError where the driver or this version of it lacks the function.
    """
    try:
        code, *results = getattr(cuda, name)(*arguments)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CaptureRefused(f"{name} failed with {reason}") from error
    if int(code) != 0:
        raise CaptureRefused(f"{name} failed with {getattr(code, 'name', code)}")
    return results[0] if results else None
