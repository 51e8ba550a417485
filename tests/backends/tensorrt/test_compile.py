"""Graphs compiled into plans: by NVIDIA's TensorRT-RTX, which needs no GPU to build, and by doubles."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from doubles import VERSIONS, Double

from deploykit.backends.gpu.driver import Gpu
from deploykit.backends.tensorrt import timing
from deploykit.backends.tensorrt.compile import compile_plan
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.library import import_library
from deploykit.backends.tensorrt.monitor import PhaseReporter
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.values import BatchRange, BuildOptions

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
FP32 = f"""{HEAD} g (float[N,4,8,8] x) => (float[N,8,8,8] y) <float[8,4,3,3] weight>
    {{ [conv] c = Conv<pads = [1,1,1,1]> (x, weight) [relu] y = Relu (c) }}"""
FP16 = f"""{HEAD} g (float[N,4,8,8] x) => (float[N,8,8,8] y) <float16[8,4,3,3] weight>
    {{ [in] h = Cast<to = 10> (x) [conv] c = Conv<pads = [1,1,1,1]> (h, weight) [out] y = Cast<to = 1> (c) }}"""
INT8 = f"""{HEAD} g (float[N,4,8,8] x) => (float[N,8,8,8] y) <int8[8,4,3,3] weight>
    {{ s = Constant<value = float {{0.02}}> () z = Constant<value = int8 {{0}}> ()
       scales = Constant<value = float[8] {{0.01,0.02,0.01,0.02,0.01,0.02,0.01,0.02}}> ()
       zeros = Constant<value = int8[8] {{0,0,0,0,0,0,0,0}}> ()
       [q] q = QuantizeLinear (x, s, z) [dq] d = DequantizeLinear (q, s, z)
       [dqw] w = DequantizeLinear<axis = 0> (weight, scales, zeros)
       [conv] y = Conv<pads = [1,1,1,1]> (d, w) }}"""
FIXED = FP32.replace("[N,", "[2,")
TWO_FREE = FP32.replace("float[N,4,8,8]", "float[N,4,H,8]").replace("float[N,8,8,8]", "float[N,8,H,8]")

BATCH = BatchRange(1, 2, 4)
PLAIN = BuildOptions(batch=BATCH)
GPU = Gpu("NVIDIA Doubled", 87, "580.65.06", 8 << 30)

Written = Callable[[str], Path]


@pytest.fixture(scope="module")
def rtx() -> Dialect:
    pytest.importorskip("tensorrt_rtx")
    return Dialect(import_library("tensorrt-rtx"))


@pytest.mark.parametrize("text", [FP32, FP16, INT8], ids=["fp32", "fp16", "int8"])
@pytest.mark.parametrize("targets", [(), (86, 120)], ids=["portable", "sm86+sm120"])
def test_nvidias_compiler_builds_every_precision_without_a_gpu(
    rtx: Dialect, write_graph: Written, tmp_path: Path, text: str, targets: tuple[int, ...]
) -> None:
    options = BuildOptions(batch=BATCH, compute_capabilities=targets)
    plan = compile_plan(rtx, write_graph(text), tmp_path / "engine.plan", options, None, None)
    assert plan.path == tmp_path / "engine.plan"
    assert plan.path.stat().st_size > 10_000
    profile = "x 1×4×8×8 … 2×4×8×8 … 4×4×8×8"
    assert plan.settings == ("STRONGLY_TYPED", "TF32 off", "DETAILED", profile, *(f"SM{target}" for target in targets))
    assert plan.seconds > 0
    assert plan.timing_cache_sha256 is None


def test_a_graph_of_one_batch_needs_no_profile(rtx: Dialect, write_graph: Written, tmp_path: Path) -> None:
    plan = compile_plan(rtx, write_graph(FIXED), tmp_path / "plan", BuildOptions(batch=BatchRange(2, 2, 2)), None, None)
    assert plan.settings == ("STRONGLY_TYPED", "TF32 off", "DETAILED")


def test_a_batch_that_contradicts_the_graph_is_refused(rtx: Dialect, write_graph: Written, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a fixed batch of 2\. Use --batch 2:2:2 instead of 1:2:4"):
        compile_plan(rtx, write_graph(FIXED), tmp_path / "plan", PLAIN, None, None)
    assert not (tmp_path / "plan").exists()


def test_no_axis_but_the_batch_may_be_free(rtx: Dialect, write_graph: Written, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x of model\.onnx has dynamic axes other than the batch"):
        compile_plan(rtx, write_graph(TWO_FREE), tmp_path / "plan", PLAIN, None, None)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"compute_capabilities": (86, 90)}, "has no compute capability 90. Choose from 75, 80, 86, 89, 120"),
        ({"hardware_compatible": True}, "has no hardware compatibility level. Omit it"),
        ({"version_compatible": True}, "has no lean runtime to embed into the engine: build without --version"),
        ({"optimization_level": 9}, "has no optimization level 9. Choose 0 to 5."),
        ({"workspace_mib": 1}, "within workspace limit"),
        ({"dla_core": 0, "batch": BatchRange(1, 1, 1)}, "finds no deep-learning accelerator on this machine"),
    ],
)
def test_tensorrt_rtx_refuses_unsupported_options(
    rtx: Dialect, write_graph: Written, tmp_path: Path, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(BackendError) as raised:
        compile_plan(rtx, write_graph(FP32), tmp_path / "plan", BuildOptions(**{"batch": BATCH, **asked}), None, None)
    assert told in str(raised.value)
    assert not (tmp_path / "plan").exists()


def test_an_input_without_a_batch_is_refused(write_graph: Written, tmp_path: Path) -> None:
    graph = write_graph(f"{HEAD} g (float[N,4] x, float f) => (float[N,4] y) {{ y = Mul (x, f) }}")
    with pytest.raises(InputError, match=r"The input f of model\.onnx has no batch axis\."):
        compile_plan(Dialect(Double("10.3")), graph, tmp_path / "plan", PLAIN, GPU, None)


class Interrupting:
    """A Progress that acts when the first phase begins."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.notes: list[str] = []

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:  # noqa: ARG002
        self.act()
        yield lambda: None

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and tests inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, default_sigint: None) -> Callable[[], None]:  # noqa: ARG001
    """Send SIGINT, and wait until the waiting thread received it: a small build may end earlier on a busy machine."""
    heard = threading.Event()
    cancel = PhaseReporter.cancel

    def heard_by(phases: PhaseReporter) -> None:
        cancel(phases)
        heard.set()

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert heard.wait(60)

    monkeypatch.setattr(PhaseReporter, "cancel", heard_by)
    return press


def test_ctrl_c_stops_the_tensorrt_builder_and_leaves_no_files(
    rtx: Dialect, write_graph: Written, tmp_path: Path, press_ctrl_c: Callable[[], None]
) -> None:
    graph = write_graph(FP32)
    mark = rtx.log.count
    with pytest.raises(KeyboardInterrupt):
        compile_plan(rtx, graph, tmp_path / "engine.plan", PLAIN, None, Interrupting(press_ctrl_c))
    assert any("Build canceled by user" in error for error in rtx.log.errors_since(mark))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert compile_plan(rtx, graph, tmp_path / "engine.plan", PLAIN, None, None).path.exists()


def test_an_error_in_the_progress_callback_stops_the_build_and_propagates(
    rtx: Dialect, write_graph: Written, tmp_path: Path
) -> None:
    def fail() -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        compile_plan(rtx, write_graph(FP32), tmp_path / "engine.plan", PLAIN, None, Interrupting(fail))
    assert not (tmp_path / "engine.plan").exists()


def test_an_exit_inside_the_build_ends_the_wait_for_it(write_graph: Written, tmp_path: Path) -> None:
    double = Double("10.3")

    def leave() -> None:
        raise SystemExit("the process is told to end")

    double.during_build = leave
    with pytest.raises(SystemExit, match="told to end"):
        compile_plan(Dialect(double), write_graph(FP32), tmp_path / "engine.plan", PLAIN, GPU, None)


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_is_raised_after_the_build_has_ended(
    version: str, write_graph: Written, tmp_path: Path, press_ctrl_c: Callable[[], None]
) -> None:
    double = Double(version)
    progress = Interrupting(lambda: None)
    ended = []

    def during_build() -> None:
        press_ctrl_c()
        ended.append(True)

    double.during_build = during_build
    with pytest.raises(KeyboardInterrupt):
        compile_plan(Dialect(double), write_graph(FP32), tmp_path / "engine.plan", PLAIN, GPU, progress)
    assert ended
    assert not (tmp_path / "engine.plan").exists()
    if version == "8.6":
        assert progress.notes == ["TensorRT 8.6.1 cannot cancel a build: waiting for it to end."]
    else:
        assert progress.notes == []
        assert double.cancelled


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_is_written_and_the_timing_cache_is_saved(version: str, write_graph: Written, tmp_path: Path) -> None:
    double = Double(version)
    first, second = (
        compile_plan(Dialect(double), write_graph(FP32), tmp_path / "engine.plan", PLAIN, GPU, None) for _ in range(2)
    )
    assert first.path.read_bytes() == b"a plan of " + double.__version__.encode()
    assert first.timing_cache_sha256 == second.timing_cache_sha256 is not None
    assert "IBuilderConfig.set_timing_cache(new)" in double.calls


@pytest.mark.parametrize("watched", [True, False])
def test_an_unwritable_timing_cache_is_noted_and_the_engine_is_preserved(
    write_graph: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "cache"))
    double, progress = Double("10.3"), Interrupting(lambda: None)
    # A folder at the path of the timing cache makes saving fail, which happens only after the build.
    double.during_build = lambda: timing.timings_file(GPU.name, double.__version__).mkdir()
    graph, reporter = write_graph(FP32), progress if watched else None
    plan = compile_plan(Dialect(double), graph, tmp_path / "engine.plan", PLAIN, GPU, reporter)
    assert plan.path.read_bytes() == b"a plan of 10.3.0"
    assert plan.timing_cache_sha256 is None
    path = tmp_path / "cache" / "timing" / "nvidia-doubled-10.3.0.cache"
    note = "The engine was built, but its timing cache was not saved for the next build."
    assert progress.notes == [f"{note} {path} cannot be written: Is a directory."] * watched


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
    [
        ("2: [virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (no further information)",
         BackendError, "Free GPU memory"),
        ("Error Code 1: Cuda Runtime (cudaError 2: out of memory)", BackendError, "Free GPU memory"),
        ("Error Code 1: Myelin (no tactics to implement the operation within workspace limit.)",
         BackendError, "Increase --workspace"),
        ("Error Code 10: Internal Error (Could not find any implementation for node conv1 + relu.)",
         InputError, "another --target"),
        ("Error Code 6: API Usage Error (Unable to load library: libnvinfer_lean.so.10)", BackendError, "lean runtime"),
        ("Error Code 2: Internal Error (Assertion !x failed.)", BackendError, "report it"),
    ],
)  # fmt: skip
def test_failures_are_quoted_with_a_remedy(
    write_graph: Written, tmp_path: Path, said: str, kind: type[DeploykitError], remedy: str
) -> None:
    double = Double("10.3")
    double.failure = said
    with pytest.raises(DeploykitError) as raised:
        compile_plan(Dialect(double), write_graph(FP32), tmp_path / "engine.plan", PLAIN, GPU, None)
    assert type(raised.value) is kind
    assert "TensorRT 10.3.0 could not build the engine: " in raised.value.what
    assert ".cpp" not in raised.value.what
    assert remedy in raised.value.remedy


def test_a_failed_build_preserves_the_existing_plan(write_graph: Written, tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(b"yesterday's")
    double = Double("11.4")
    double.failure = "Error Code 2: OutOfMemory (no further information)"
    with pytest.raises(BackendError):
        compile_plan(Dialect(double), write_graph(FP32), tmp_path / "engine.plan", PLAIN, GPU, None)
    assert (tmp_path / "engine.plan").read_bytes() == b"yesterday's"
    assert {path.name for path in tmp_path.iterdir()} == {"engine.plan", "model.onnx"}


def test_a_missing_folder_is_reported(write_graph: Written, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent/engine\.plan cannot be written: No such file or directory"):
        compile_plan(Dialect(Double("10.3")), write_graph(FP32), tmp_path / "absent" / "engine.plan", PLAIN, GPU, None)
