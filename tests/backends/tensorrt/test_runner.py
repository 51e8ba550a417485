"""Execution of a plan, mostly with doubles of pycuda, cuda-bindings and TensorRT: work runs when its stream is
synchronized, so correct outputs show the right order on the right buffers, and nothing about a GPU. The last tests
need a real GPU and are skipped without one.
"""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cuda_doubles
import numpy as np
import pytest
from cuda_doubles import Gpu, Tensorrt, described

from deploykit.backends import is_installed
from deploykit.backends.gpu import memory
from deploykit.backends.gpu.driver import query_driver
from deploykit.backends.gpu.memory_library import REFUSED_IMPORT
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.library import import_library
from deploykit.backends.tensorrt.runner import TensorRtRunner
from deploykit.backends.tensorrt.runtime import Runtime, inspect_plan
from deploykit.core.errors import BackendError, InputError
from deploykit.core.values import BatchRange, BuildOptions, TensorSpec, TimedRunner

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a failed finalizer

X = TensorSpec("x", "float32", ("batch", 2), "NC")
Y = TensorSpec("y", "float32", ("batch", 2), "NC")

Runners = Callable[..., TensorRtRunner]


@pytest.fixture(params=cuda_doubles.LIBRARIES)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    gpu = cuda_doubles.install(monkeypatch, request.param)
    yield gpu
    assert not gpu.stack, "a context was left behind"


@pytest.fixture
def trt(gpu: Gpu) -> Tensorrt:
    return Tensorrt(gpu)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "engine.plan").write_bytes(b"a plan")
    return tmp_path / "engine.plan"


@pytest.fixture
def runner(trt: Tensorrt, plan: Path) -> TensorRtRunner:
    return TensorRtRunner(Dialect(trt), plan, (X,), (Y,))


def batch(size: int, first: float = 1) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.arange(first, first + 2 * size, dtype=np.float32).reshape(size, 2)}


STEPS = (
    "alloc",
    "alloc_host",
    "shape",
    "bind",
    "record",
    "htod",
    "enqueue",
    "dtoh",
    "synchronize",
    "begin capture",
    "end capture",
    "instantiate",
    "launch",
    "destroy executable",
)

PLAIN = ["record", "htod", "record", "enqueue", "record", "dtoh", "record", "synchronize"]
CAPTURED = ["begin capture", "enqueue", "end capture", "instantiate"]
LAUNCHED = ["launch" if step == "enqueue" else step for step in PLAIN]


def steps(gpu: Gpu, call: Callable[[], object]) -> list[str]:
    """The steps of the call."""
    before = len(gpu.named(*STEPS))
    call()
    return gpu.named(*STEPS)[before:]


def test_outputs_equal_the_engines_and_are_owned_by_the_caller(runner: TensorRtRunner) -> None:
    first = runner.run(batch(2))["y"]
    snapshot = first.copy()
    second = runner.run(batch(2, first=100))["y"]
    assert np.array_equal(first, snapshot)
    assert np.array_equal(first, 2 * batch(2)["x"])
    assert np.array_equal(second, 2 * batch(2, first=100)["x"])
    assert first.flags.owndata
    first[:] = 0  # it is writable, and no buffer of the runner's
    assert np.array_equal(runner.run(batch(2))["y"], snapshot)


def test_the_first_call_of_a_batch_allocates_and_enqueues(gpu: Gpu, runner: TensorRtRunner) -> None:
    room = ["shape", "alloc", "alloc_host", "alloc", "alloc_host", "bind", "bind"]
    assert steps(gpu, lambda: runner.run(batch(2))) == room + PLAIN


def test_the_second_call_captures_and_later_ones_launch(gpu: Gpu, runner: TensorRtRunner) -> None:
    runner.run(batch(2))
    assert steps(gpu, lambda: runner.run(batch(2))) == CAPTURED + LAUNCHED
    assert steps(gpu, lambda: runner.run(batch(2))) == LAUNCHED
    assert np.array_equal(runner.run(batch(2, first=7))["y"], 2 * batch(2, first=7)["x"])
    assert runner.caveats == ()


def test_without_graphs_every_call_enqueues_without_a_caveat(gpu: Gpu, trt: Tensorrt, plan: Path) -> None:
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,), cuda_graph=False)
    runner.run(batch(2))
    assert steps(gpu, lambda: runner.run(batch(2))) == PLAIN
    assert runner.caveats == ()


def test_another_batch_discards_the_graph_and_smaller_batches_reuse_the_buffers(
    gpu: Gpu, runner: TensorRtRunner
) -> None:
    for _ in range(2):
        runner.run(batch(4))
    recorded = steps(gpu, lambda: runner.run(batch(3)))
    assert recorded == ["destroy executable", "shape", "bind", "bind", *PLAIN]
    assert np.array_equal(runner.run(batch(1))["y"], 2 * batch(1)["x"])


def test_alternating_batches_are_never_captured(gpu: Gpu, runner: TensorRtRunner) -> None:
    for size in (1, 2, 1, 2, 1, 2):
        assert np.array_equal(runner.run(batch(size))["y"], 2 * batch(size)["x"])
    assert gpu.named("begin capture") == []


@pytest.mark.parametrize(
    ("call", "refusal", "reason"),
    [
        ("begin capture", 901, "cuStreamBeginCapture failed with CUDA_ERROR_901"),
        ("end capture", 901, "cuStreamEndCapture failed with CUDA_ERROR_901"),
        ("instantiate", 2, "cuGraphInstantiate failed with CUDA_ERROR_2"),
        ("launch", 1, "cuGraphLaunch failed with CUDA_ERROR_1"),
    ],
)
def test_a_failed_capture_is_reported_once_and_each_call_enqueues(
    gpu: Gpu, runner: TensorRtRunner, call: str, refusal: int, reason: str
) -> None:
    gpu.refuses[call] = refusal
    for first in range(5):
        assert np.array_equal(runner.run(batch(2, first))["y"], 2 * batch(2, first)["x"])
    assert runner.caveats == (f"no CUDA graph is used, kernels are launched one by one: {reason}",)
    assert len(gpu.named(call)) == 1, "it is not tried again"
    assert steps(gpu, lambda: runner.run(batch(2))) == PLAIN


def test_capture_is_not_attempted_if_the_library_disallows_it(
    gpu: Gpu, trt: Tensorrt, runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt.IExecutionContext, "is_stream_capturable", lambda *_: False, raising=False)
    for _ in range(3):
        runner.run(batch(2))
    assert gpu.named("begin capture") == []
    (caveat,) = runner.caveats
    assert caveat.endswith("launched one by one: TensorRT 10.3.0 does not allow the capture of this engine")


def test_times_of_copies_and_computation_are_separate(runner: TensorRtRunner) -> None:
    for _ in range(3):
        outputs, timings = runner.run_timed(batch(2))
        assert np.array_equal(outputs["y"], 2 * batch(2)["x"])
        assert timings[:3] == (1.0, 1.0, 1.0), "the double's clock ticks once per event"
        assert 0 < timings.enqueue_ms < 1000


def test_arrays_of_any_strides_are_accepted(runner: TensorRtRunner) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4).T[::2]
    assert not x.flags.c_contiguous
    assert np.array_equal(runner.run({"x": x})["y"], 2 * x)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({}, "the input 'x' is missing"),
        ({**batch(1), "z": np.zeros(1)}, "the engine has no input 'z'"),
        ({"x": [[1.0, 2.0]]}, "x is a list, not an array"),
        ({"x": np.zeros((2, 2))}, "x is float64, not float32"),
        ({"x": np.zeros((2, 3), np.float32)}, "x is 2×3, not batch×2"),
        ({"x": np.zeros((2,), np.float32)}, "x is 2, not batch×2"),
        ({"x": np.zeros((5, 2), np.float32)}, "x has a batch of 5, and the engine accepts 1 to 4"),
        ({"x": np.zeros((0, 2), np.float32)}, "x has a batch of 0, and the engine accepts 1 to 4"),
    ],
)
def test_mismatched_arrays_are_refused_before_any_gpu_work(
    gpu: Gpu, runner: TensorRtRunner, arrays: Any, problem: str
) -> None:
    before = list(gpu.calls)
    with pytest.raises(InputError) as caught:
        runner.run(arrays)
    assert caught.value.what == f"TensorRT rejects these inputs: {problem}."
    assert gpu.calls == before


def test_threads_have_separate_contexts_streams_and_buffers(gpu: Gpu, runner: TensorRtRunner) -> None:
    together = threading.Barrier(3)

    def work(worker: int) -> bool:
        together.wait(10)
        right = True
        for step in range(20):
            size, first = 1 + (worker + step // 5) % 4, 1000.0 * worker + step
            right &= np.array_equal(runner.run(batch(size, first))["y"], 2 * batch(size, first)["x"])
        return right

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3)))
    assert len(gpu.named("context")) == 3
    assert len(gpu.streams) == 3
    assert gpu.contexts == 1


@pytest.mark.parametrize("threads_live_on", [False, True])
def test_dropping_a_runner_frees_all_resources(gpu: Gpu, trt: Tensorrt, plan: Path, threads_live_on: bool) -> None:
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,))
    pool = ThreadPoolExecutor(2)
    for _ in range(3):
        list(pool.map(runner.run, (batch(2),) * 4))
        runner.run(batch(1))
    assert gpu.memory
    if not threads_live_on:
        pool.shutdown()
    del runner
    gc.collect()
    assert gpu.memory == {}
    assert gpu.leaks == []
    assert len(gpu.named("destroy executable")) == len(gpu.named("instantiate"))
    pool.shutdown()


def test_streams_do_not_wait_for_the_default_stream(gpu: Gpu, runner: TensorRtRunner) -> None:
    runner.run(batch(1))
    assert ("stream", 1) in gpu.calls


def test_a_refused_plan_reports_the_reason(trt: Tensorrt, plan: Path) -> None:
    plan.write_bytes(b"no plan")
    with pytest.raises(BackendError, match=r"TensorRT 10.3.0 rejects this engine: the plan is damaged"):
        TensorRtRunner(Dialect(trt), plan, (X,), (Y,))


@pytest.mark.parametrize("version_compatible", [False, True])
def test_only_a_version_compatible_plan_may_contain_host_code(
    gpu: Gpu, trt: Tensorrt, plan: Path, version_compatible: bool
) -> None:
    TensorRtRunner(Dialect(trt), plan, (X,), (Y,), version_compatible=version_compatible)
    assert ("deserialize", version_compatible) in gpu.calls


def test_a_weight_stripped_plan_is_refitted_before_inference(
    gpu: Gpu, trt: Tensorrt, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = plan.with_name("model.onnx")
    monkeypatch.setattr(Runtime, "refit", lambda _, engine, path: gpu.call("refit", engine, path))
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,), weights=graph)
    runner.run(batch(1))
    assert ("refit", runner._engine, graph) in gpu.calls
    assert gpu.named("deserialize", "refit", "context") == ["deserialize", "refit", "context"]


def test_without_run_time_compilation_no_kernel_cache_is_saved(trt: Tensorrt, plan: Path) -> None:
    file = plan.with_name("compiled")
    TensorRtRunner(Dialect(trt), plan, (X,), (Y,), jit_file=file).run(batch(1))
    assert not file.exists()


def test_kernels_compiled_at_run_time_are_saved_and_restored(
    trt: Tensorrt, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = []
    context = Runtime.create_context

    def made(running: Runtime, engine: Any, jit_cache: bytes | None = None) -> object:
        received.append(jit_cache)
        return context(running, engine)

    monkeypatch.setattr(Runtime, "create_context", made)
    monkeypatch.setattr(Runtime, "serialize_kernels", lambda *_: b"kernels")
    for _ in range(2):
        runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,), jit_file=plan.parent / "new" / "compiled")
        runner.run(batch(1))
    assert (plan.parent / "new" / "compiled").read_bytes() == b"kernels"
    assert received == [None, b"kernels"]


def test_kernels_of_every_shape_are_saved_and_only_when_there_are_new_ones(
    trt: Tensorrt, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[bytes] = []
    compiled = [b"one", b"one and two", b"one and two", b"never read"]
    monkeypatch.setattr(Runtime, "serialize_kernels", lambda *_: compiled.pop(0))
    monkeypatch.setattr("deploykit.backends.tensorrt.runner.replace_file", lambda _, kernels, __: saved.append(kernels))
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,), jit_file=plan.parent / "compiled")
    for size in (1, 1, 2, 2, 3, 1, 2, 3):
        runner.run(batch(size))
    assert saved == [b"one", b"one and two"]
    assert compiled == [b"never read"]


def test_layers_are_timed_in_a_separate_context_without_the_warm_up(
    trt: Tensorrt, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Callable[[str, float], None]] = []
    monkeypatch.setattr(Runtime, "attach_profiler", lambda _self, _context, report: reports.append(report))
    monkeypatch.setattr(Runtime, "inspect_layers", lambda _self, _engine, context: f"{context.handle.shape}")
    enqueue = Runtime.enqueue

    def enqueued(running: Runtime, context: Any, stream: int) -> None:
        enqueue(running, context, stream)
        for report in reports:
            report("conv", 0.25)

    monkeypatch.setattr(Runtime, "enqueue", enqueued)
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,))
    layers = runner.inspect_engine(batch(2), calls=4)
    assert layers.times_us == {"conv": 250.0}
    assert layers.document.startswith("(2, ")


@pytest.fixture
def fake_clock(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """The runner's clock is the double's, on which a call takes `seconds_per_call`."""
    monkeypatch.setattr("deploykit.backends.tensorrt.runner.time.perf_counter", lambda: gpu.seconds)
    return gpu


@pytest.mark.parametrize(("seconds_per_call", "calls"), [(0.001, 200), (0.08, 3), (0.1, 3), (1.0, 3)])
def test_warm_up_takes_200_ms_by_the_clock_and_at_least_three_calls(
    fake_clock: Gpu, runner: TensorRtRunner, seconds_per_call: float, calls: int
) -> None:
    fake_clock.seconds_per_call = seconds_per_call
    runner.gpu_times(batch(2), calls=7)
    enqueued, launched = len(fake_clock.named("enqueue")), len(fake_clock.named("launch"))
    assert enqueued + launched == pytest.approx(2 * (calls + 7) + 1, abs=2)  # the captured enqueue is one more


def test_profiled_calls_come_after_the_same_warm_up(
    fake_clock: Gpu, runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = []
    monkeypatch.setattr(Runtime, "attach_profiler", lambda *_: seconds.append(fake_clock.seconds))
    fake_clock.seconds_per_call = 0.01
    runner.inspect_engine(batch(2), calls=4)
    assert seconds == [pytest.approx(0.2)]


def test_gpu_times_are_medians_by_events_without_a_graph_and_with_one(
    fake_clock: Gpu, runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_clock.seconds_per_call = 1.0
    marks = iter([mark for call in range(12) for mark in (0.0, call, call**2, call**3)])

    def tick(event: cuda_doubles.Event) -> None:
        cuda_doubles.Event.clock += next(marks)
        event.at = cuda_doubles.Event.clock

    monkeypatch.setattr(cuda_doubles.Event, "clock", 0.0)
    monkeypatch.setattr(cuda_doubles.Event, "tick", tick)
    plain, graph = runner.gpu_times(batch(2), calls=3)  # calls 3, 4 and 5 count, then 9, 10 and 11
    assert (plain.cuda_graph, plain.h2d_ms, plain.compute_ms, plain.d2h_ms) == (False, 4, 16, 64)
    assert (graph.cuda_graph, graph.h2d_ms, graph.compute_ms, graph.d2h_ms) == (True, 10, 100, 1000)


def test_enqueue_time_is_measured_by_the_host_clock(
    fake_clock: Gpu, runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = Runtime.enqueue

    def slow(running: Runtime, context: Any, stream: int) -> None:
        enqueue(running, context, stream)
        fake_clock.seconds += 0.003

    monkeypatch.setattr(Runtime, "enqueue", slow)
    plain, graph = runner.gpu_times(batch(2), calls=1)
    assert plain.enqueue_ms == pytest.approx(3)
    assert graph.enqueue_ms == 0, "a launch of the double's takes no time"


def test_with_a_cuda_graph_only_its_launches_are_timed(fake_clock: Gpu, runner: TensorRtRunner) -> None:
    recorded = steps(fake_clock, lambda: runner.gpu_times(batch(2), calls=5))
    assert recorded.count("enqueue") == 8 + 2  # the graph's own context enqueues once before, and once to be captured
    assert recorded.count("launch") == 7
    assert recorded[-len(LAUNCHED) * 5 - 1 : -1] == LAUNCHED * 5


@pytest.mark.usefixtures("fake_clock")
def test_without_a_captured_graph_gpu_times_are_those_of_enqueues(gpu: Gpu, runner: TensorRtRunner) -> None:
    gpu.refuses["begin capture"] = 900
    [plain] = runner.gpu_times(batch(2), calls=2)
    assert not plain.cuda_graph


@pytest.mark.usefixtures("fake_clock")
def test_gpu_times_are_measured_in_separate_contexts_in_sequence(gpu: Gpu, runner: TensorRtRunner) -> None:
    runner.run(batch(1))
    runner.gpu_times(batch(2), calls=1)
    assert gpu.named("context", "~context") == ["context", "context", "~context", "context", "~context"]
    assert np.array_equal(runner.run(batch(1))["y"], 2 * batch(1)["x"])


def test_mismatched_arrays_are_refused_before_timing(runner: TensorRtRunner) -> None:
    with pytest.raises(InputError, match="a batch of 9, and the engine accepts 1 to 4"):
        runner.gpu_times(batch(9), calls=1)


def test_no_calls_have_no_median(runner: TensorRtRunner) -> None:
    with pytest.raises(ValueError, match="at least one call, not 0"):
        runner.gpu_times(batch(1), calls=0)


def test_a_runner_with_gpu_times_is_a_timed_runner(runner: TensorRtRunner) -> None:
    class Untimed:
        inputs = outputs = ()

        def run(self, arrays: object) -> object: ...

    assert [isinstance(candidate, TimedRunner) for candidate in (runner, Untimed())] == [True, False]


@pytest.mark.parametrize("lanes", [1, 2])
def test_contexts_are_released_before_their_engine_and_that_before_its_runtime(
    gpu: Gpu, trt: Tensorrt, plan: Path, lanes: int
) -> None:
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,))
    pool = ThreadPoolExecutor(1)
    runner.run(batch(1))
    if lanes == 2:
        pool.submit(runner.run, batch(1)).result()
    del runner
    gc.collect()
    assert gpu.named("~context", "~engine", "~runtime") == ["~context"] * lanes + ["~engine", "~runtime"]
    pool.shutdown()


def test_a_context_is_released_before_its_configuration_and_its_kernel_cache(gpu: Gpu, plan: Path) -> None:
    runner = TensorRtRunner(Dialect(cuda_doubles.TensorrtRtx(gpu)), plan, (X,), (Y,))
    runner.run(batch(1))
    del runner
    gc.collect()
    assert gpu.named("~context", "~config", "~cache", "~engine") == ["~context", "~config", "~cache", "~engine"]


def test_a_plan_is_inspected_in_a_context_of_its_own_without_a_library_for_gpu_memory(
    gpu: Gpu, trt: Tensorrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("pycuda", "cuda"):
        monkeypatch.setitem(sys.modules, library, None)
    assert inspect_plan(Dialect(trt), b"a plan", {"x": (3, 2)}) == "layers for (3, 2)"
    assert gpu.named("alloc", "alloc_host", "enqueue") == []
    assert gpu.named("~context", "~engine", "~runtime") == ["~context", "~engine", "~runtime"]


def test_kernels_that_cannot_be_read_are_compiled_again(trt: Tensorrt, plan: Path) -> None:
    (plan.parent / "compiled").mkdir()
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,), jit_file=plan.parent / "compiled")
    assert np.array_equal(runner.run(batch(1))["y"], 2 * batch(1)["x"])


@pytest.mark.parametrize(("changes", "name"), [({"x": "HALF"}, "x"), ({"y": "INT32"}, "y")])
def test_an_engine_whose_tensors_differ_from_its_record_is_refused(
    trt: Tensorrt, plan: Path, changes: dict[str, str], name: str
) -> None:
    trt.types.update(changes)
    with pytest.raises(BackendError, match=f"disagree about the tensor {name}"):
        TensorRtRunner(Dialect(trt), plan, (X,), (Y,))


def test_a_runner_that_ran_out_of_memory_still_runs_smaller_batches(gpu: Gpu, runner: TensorRtRunner) -> None:
    runner.run(batch(1))
    gpu.refuses["alloc"] = cuda_doubles.OUT_OF_MEMORY
    with pytest.raises(BackendError, match=r"The tensor x needs 32 bytes of GPU memory; 3000 of 8000 bytes are free"):
        runner.run(batch(4))
    del gpu.refuses["alloc"]
    for size in (1, 4, 1):
        assert np.array_equal(runner.run(batch(size))["y"], 2 * batch(size)["x"])
    assert gpu.leaks == []


def test_a_failed_enqueue_is_a_backend_error_and_the_next_call_works(gpu: Gpu, runner: TensorRtRunner) -> None:
    gpu.refuses["enqueue"] = 1
    with pytest.raises(BackendError, match=r"TensorRT 10.3.0 failed while computing"):
        runner.run(batch(2))
    del gpu.refuses["enqueue"]
    assert np.array_equal(runner.run(batch(2))["y"], 2 * batch(2)["x"])


def test_a_context_without_a_profile_is_given_the_first(
    trt: Tensorrt, runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[int, int]] = []

    def choose(_: object, *choice: int) -> bool:
        chosen.append(choice)  # type: ignore[arg-type]
        return True

    monkeypatch.setattr(trt.IExecutionContext, "active_optimization_profile", -1)
    monkeypatch.setattr(
        trt.IExecutionContext,
        "set_optimization_profile_async",
        choose,
        raising=False,
    )
    runner.run(batch(1))
    assert chosen == [(0, 1000)]


def test_a_context_that_gets_no_profile_is_an_error(
    trt: Tensorrt, runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt.IExecutionContext, "active_optimization_profile", -1)
    monkeypatch.setattr(trt.IExecutionContext, "set_optimization_profile_async", lambda *_: False, raising=False)
    with pytest.raises(BackendError, match=r"TensorRT 10\.3\.0 provides no optimization profile for another context"):
        runner.run(batch(1))


class OnGpu:
    """An array of another library, in the double's memory."""

    def __init__(self, gpu: Gpu, array: np.ndarray[Any, Any], offset: int = 0, **interface: Any) -> None:
        address = gpu.allocate(array.nbytes + offset) + offset
        gpu.bytes_at(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.__cuda_array_interface__ = {**described(address, array.shape, array.dtype), **interface}


def read(gpu: Gpu, array: Any) -> np.ndarray[Any, Any]:
    interface = array.__cuda_array_interface__
    shape, dtype = interface["shape"], np.dtype(interface["typestr"])
    return gpu.bytes_at(interface["data"][0], int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape).copy()


def test_device_arrays_are_computed_on_without_a_copy(gpu: Gpu, runner: TensorRtRunner) -> None:
    recorded = steps(gpu, lambda: runner.run_device({"x": OnGpu(gpu, batch(2)["x"])}))
    assert recorded == ["shape", "alloc", "bind", "bind", "enqueue", "synchronize"]
    first = runner.run_device({"x": OnGpu(gpu, batch(3)["x"])})["y"]
    second = runner.run_device({"x": OnGpu(gpu, batch(3, first=50)["x"])})["y"]
    assert np.array_equal(read(gpu, first), 2 * batch(3)["x"])
    assert np.array_equal(read(gpu, second), 2 * batch(3, first=50)["x"])


def test_the_runner_names_its_memory_library(runner: TensorRtRunner, request: pytest.FixtureRequest) -> None:
    library = request.node.callspec.params["gpu"]
    assert runner.memory_library == {"pycuda": "pycuda 2026.1", "cuda-bindings": "cuda-bindings 13.5.0"}[library]


def test_the_enqueue_works_on_what_another_stream_writes_before(gpu: Gpu, runner: TensorRtRunner) -> None:
    with cuda_doubles.pushed(gpu):
        writer, x = cuda_doubles.Stream(gpu, 0), OnGpu(gpu, np.zeros((2, 2), np.float32))
    address = x.__cuda_array_interface__["data"][0]
    writer.put(lambda: np.copyto(gpu.bytes_at(address, 16).view(np.float32), batch(2)["x"].reshape(-1)))
    x.__cuda_array_interface__["stream"] = writer.handle
    assert np.array_equal(read(gpu, runner.run_device({"x": x})["y"]), 2 * batch(2)["x"])
    assert gpu.named("synchronize everything") == []


def test_an_output_feeds_the_next_call_and_outlives_its_runner(gpu: Gpu, trt: Tensorrt, plan: Path) -> None:
    runner = TensorRtRunner(Dialect(trt), plan, (X,), (Y,))
    twice = runner.run_device({"x": runner.run_device({"x": OnGpu(gpu, batch(2)["x"])})["y"]})["y"]
    del runner
    gc.collect()
    assert np.array_equal(read(gpu, twice), 4 * batch(2)["x"])


def test_host_and_device_calls_can_alternate(gpu: Gpu, runner: TensorRtRunner) -> None:
    for first in range(4):
        inputs = batch(2, first)
        assert np.array_equal(read(gpu, runner.run_device({"x": OnGpu(gpu, inputs["x"])})["y"]), 2 * inputs["x"])
        for _ in range(3):
            assert np.array_equal(runner.run(inputs)["y"], 2 * inputs["x"])


def test_an_unaligned_device_array_is_copied_on_the_gpu(gpu: Gpu, runner: TensorRtRunner) -> None:
    output = runner.run_device({"x": OnGpu(gpu, batch(2)["x"], offset=8)})["y"]
    assert np.array_equal(read(gpu, output), 2 * batch(2)["x"])
    assert gpu.named("dtod") == ["dtod"]


def test_the_enqueue_waits_for_the_stream_that_writes_a_device_array(gpu: Gpu, runner: TensorRtRunner) -> None:
    runner.run_device({"x": OnGpu(gpu, batch(2)["x"], stream=1)})
    assert gpu.named("wait_for_event", "enqueue") == ["wait_for_event", "enqueue"]


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((2, 2), np.float16), "x is float16, not float32"),
        (np.zeros((9, 2), np.float32), "x has a batch of 9, and the engine accepts 1 to 4"),
    ],
)
def test_mismatched_device_arrays_are_refused(
    gpu: Gpu, runner: TensorRtRunner, array: np.ndarray[Any, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=f"^TensorRT rejects these inputs: {problem}"):
        runner.run_device({"x": OnGpu(gpu, array)})


def missing_reason(tensorrt: str, memory_library: str) -> str | None:
    """Why these two do not run here; None where they do."""
    if (reason := query_driver().missing_reason) is not None:
        return reason
    if not is_installed(tensorrt):
        return f"{tensorrt} is not installed"
    try:
        memory.LIBRARIES[memory_library]()
    except REFUSED_IMPORT as error:
        return f"{memory_library} cannot be imported: {error}"
    return None


NETWORK = """
<ir_version: 9, opset_import: ["" : 20]>
network (float[batch, 3, 9, 9] x) => (float[batch, 4] y) <float[4, 3, 3, 3] weight> {
    convolved = Conv <pads = [1, 1, 1, 1]> (x, weight)
    positive = Relu (convolved)
    pooled = GlobalAveragePool (positive)
    y = Flatten (pooled)
}
"""


@pytest.fixture(params=cuda_doubles.LIBRARIES)
def memory_library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def real(
    request: pytest.FixtureRequest,
    memory_library: str,
    write_graph: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Runners, Callable[[Any], Any]]]:
    """Creates runners of a small network built on this machine, and its float64 reference; with each of NVIDIA's two
    runtimes and of the two memory libraries.
    """
    if (reason := missing_reason(request.param, memory_library)) is not None:
        pytest.skip(reason)
    import onnx

    from deploykit.backends.tensorrt.compile import compile_plan

    library = memory.LIBRARIES[memory_library]()
    monkeypatch.setattr(memory, "load_memory_library", lambda: library)
    monkeypatch.setattr(memory, "_PRIMARY_CONTEXT", memory._PrimaryContext())
    graph = write_graph(NETWORK)
    dialect = Dialect(import_library(request.param))
    options = BuildOptions(batch=BatchRange(1, 4, 8))
    plan = compile_plan(dialect, graph, graph.parent / "engine.plan", options, query_driver().gpu, None)
    weight = onnx.numpy_helper.to_array(onnx.load(graph).graph.initializer[0]).astype(np.float64)

    def expected(x: Any) -> Any:
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("nchwij,kcij->nkhw", windows, weight).clip(0).mean((2, 3))

    specs = (TensorSpec("x", "float32", ("batch", 3, 9, 9), "NCHW"),), (TensorSpec("y", "float32", ("batch", 4), "NC"),)
    yield lambda **more: TensorRtRunner(dialect, plan.path, *specs, **more), expected
    gc.collect()  # what this library allocated, it frees


def images(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, 3, 9, 9)).astype(np.float32)


TOLERANCE: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-3}
"""TF32 keeps ten bits of the factors, and 27 products of order 1 are summed."""


def test_on_a_gpu_every_batch_agrees_with_numpy(real: tuple[Runners, Callable[[Any], Any]]) -> None:
    make, expected = real
    runner = make()
    for count in (1, 1, 1, 8, 8, 8, 3, 3, 1):
        x = images(count, seed=count)
        outputs, timings = runner.run_timed({"x": x})
        np.testing.assert_allclose(outputs["y"], expected(x), **TOLERANCE)
        assert min(timings) >= 0
    with pytest.raises(InputError, match="a batch of 9, and the engine accepts 1 to 8"):
        runner.run({"x": images(9)})


def test_on_a_gpu_two_threads_do_not_interfere(real: tuple[Runners, Callable[[Any], Any]]) -> None:
    make, expected = real
    runner = make()

    def work(worker: int) -> None:
        for step in range(50):
            x = images(1 + (worker + step // 10) % 8, seed=100 * worker + step)
            np.testing.assert_allclose(runner.run({"x": x})["y"], expected(x), **TOLERANCE)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))


def test_on_a_gpu_a_cuda_graph_computes_what_plain_enqueues_compute(
    real: tuple[Runners, Callable[[Any], Any]],
) -> None:
    make, _ = real
    plain, graph = make(cuda_graph=False), make()
    for seed in range(5):
        x = images(4, seed)
        assert np.array_equal(graph.run({"x": x})["y"], plain.run({"x": x})["y"])
    assert all("does not allow the capture of this engine" in caveat for caveat in graph.caveats)  # TensorRT-RTX may


def test_on_a_gpu_every_part_of_a_call_has_a_positive_duration(real: tuple[Runners, Callable[[Any], Any]]) -> None:
    make, _ = real
    for times in make().gpu_times({"x": images(4)}, calls=20):
        assert min(times.h2d_ms, times.compute_ms, times.d2h_ms, times.enqueue_ms) > 0


def test_on_a_gpu_pytorch_tensors_are_read_without_a_copy(
    real: tuple[Runners, Callable[[Any], Any]],
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    make, expected = real
    x = torch.from_numpy(images(5)).cuda()
    y = make().run_device({"x": x})["y"]
    for read in (torch.from_dlpack(y), torch.as_tensor(y, device="cuda")):
        np.testing.assert_allclose(read.cpu().numpy(), expected(images(5)), **TOLERANCE)
