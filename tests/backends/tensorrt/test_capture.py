"""CUDA graphs: capture, launch, release, and every failure. cuda-bindings is a double in all but one
test: only the order of its calls is verified.
"""

import gc
import sys
from collections.abc import Callable

import cuda_doubles
import pytest
from cuda_doubles import Gpu, Stream

from deploykit.backends.gpu.driver import query_driver
from deploykit.backends.tensorrt.capture import CaptureRefused, capture_graph
from deploykit.core.errors import BackendError


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return cuda_doubles.install(monkeypatch)


@pytest.fixture
def stream(gpu: Gpu) -> Stream:
    with cuda_doubles.pushed(gpu):
        return Stream(gpu, 1)


def append_kernel(stream: Stream, done: list[str]) -> Callable[[], None]:
    return lambda: stream.put(lambda: done.append("kernel"))


def test_captured_work_runs_at_each_launch_and_not_during_capture(gpu: Gpu, stream: Stream) -> None:
    done: list[str] = []
    graph = capture_graph(stream.handle, append_kernel(stream, done))
    stream.synchronize()
    assert done == []
    graph.launch(stream.handle)
    graph.launch(stream.handle)
    stream.synchronize()
    assert done == ["kernel", "kernel"]
    graph.destroy()
    assert [call[0] for call in gpu.calls if call[0] not in ("stream", "synchronize")] == [
        "begin capture",
        "end capture",
        "instantiate",
        "destroy graph",
        "launch",
        "launch",
        "destroy executable",
    ]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("enabled", [True, False])
def test_no_finalizer_of_garbage_runs_during_capture(stream: Stream, enabled: bool) -> None:
    freed: list[str] = []
    states: list[bool] = []

    def enqueue() -> None:
        states.append(gc.isenabled())
        owner = type("Owner", (), {"__del__": lambda _: freed.append("memory")})()
        owner.itself = owner
        del owner
        _ = [[] for _ in range(10 * gc.get_threshold()[0])]  # as many containers start a collection
        assert freed == []

    (gc.enable if enabled else gc.disable)()
    try:
        capture_graph(stream.handle, enqueue)
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert states == [False]


@pytest.mark.parametrize(
    ("call", "function", "destroyed"),
    [
        ("begin capture", "cuStreamBeginCapture", 0),
        ("end capture", "cuStreamEndCapture", 0),
        ("instantiate", "cuGraphInstantiate", 1),
    ],
)
def test_a_failing_step_is_named_and_the_stream_stays_usable(
    gpu: Gpu, stream: Stream, call: str, function: str, destroyed: int
) -> None:
    gpu.refuses[call] = 900
    with pytest.raises(CaptureRefused, match=f"^{function} failed with CUDA_ERROR_900$"):
        capture_graph(stream.handle, append_kernel(stream, []))
    assert stream.captured is None
    assert len(gpu.named("destroy graph")) == destroyed


@pytest.mark.parametrize("also_ending", [0, 901])
def test_an_enqueue_that_fails_ends_the_capture(gpu: Gpu, stream: Stream, also_ending: int) -> None:
    def refuse() -> None:
        raise BackendError("TensorRT failed while computing: no workspace.", "")

    gpu.refuses["end capture"] = also_ending
    with pytest.raises(CaptureRefused, match=r"^TensorRT failed while computing: no workspace$"):
        capture_graph(stream.handle, refuse)
    assert stream.captured is None
    assert len(gpu.named("destroy graph")) == (0 if also_ending else 1)


def test_an_interrupt_ends_the_capture_and_propagates(stream: Stream) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture_graph(stream.handle, interrupt)
    assert stream.captured is None


def test_a_failed_launch_is_an_error(gpu: Gpu, stream: Stream) -> None:
    graph = capture_graph(stream.handle, append_kernel(stream, []))
    gpu.refuses["launch"] = 999
    with pytest.raises(CaptureRefused, match="cuGraphLaunch failed with CUDA_ERROR_999"):
        graph.launch(stream.handle)


def test_without_cuda_bindings_there_is_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(CaptureRefused, match="cuda-bindings cannot be imported"):
        capture_graph(1, lambda: None)


@pytest.mark.skipif(query_driver().gpu is not None, reason="here is a driver")
def test_the_real_cuda_bindings_without_a_driver_give_a_readable_error() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    with pytest.raises(CaptureRefused, match=r"^cuStreamBeginCapture failed with "):
        capture_graph(1, lambda: None)


def test_the_capture_mode_has_the_real_number() -> None:
    cuda = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    assert cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == 1
