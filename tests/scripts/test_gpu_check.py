"""scripts/gpu_check where there is no GPU: planning, steps that fail, stages, packing, and the report."""

import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load():
    """The program and its modules; it changes the import path, which is restored."""
    paths = list(sys.path)
    loader = SourceFileLoader("gpu_check", str(SCRIPTS / "gpu_check"))
    module = module_from_spec(spec_from_loader("gpu_check", loader))
    loader.exec_module(module)
    names = (
        *(
            "capability_check",
            "gpu_code",
            "journal",
            "machine",
            "pack",
            "plan_runner",
            "runner_checks",
            "stages",
            "steps",
        ),
        *("table", "variants"),
    )
    parts = [importlib.import_module(f"gpu.{name}") for name in names]
    sys.path[:] = paths
    return module, *parts


(
    *(gpu_check, capability_check, gpu_code, journal, machine, pack, plan_runner, runner_checks, stages, steps, table),
    variants,
) = load()
Step = steps.Step


# ── Planning ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_variant_is_checked_before_any_network_and_the_cpu_is_last():
    planned = gpu_check.plan_steps(gpu_check.ALL, ["resnet50", "vgg16"])
    assert planned[0] == Step("machine")
    assert [step.name for step in planned[1:9]] == list(gpu_check.ALL)
    of_resnet = [step.name for step in planned if step.network == "resnet50"]
    assert of_resnet == ["graphs", *gpu_check.ON_GPU, *gpu_check.ON_CPU]
    assert [step.network for step in planned[-4:]] == ["resnet50", "resnet50", "vgg16", "vgg16"]


def test_only_selected_variants_are_planned_in_the_usual_order():
    planned = gpu_check.plan_steps(["torch-eager", "tensorrt"], ["vgg16"])
    assert [str(step) for step in planned] == [
        *("machine", "tensorrt", "torch-eager", "graphs vgg16", "tensorrt vgg16", "torch-eager vgg16"),
    ]


def test_every_planned_variant_has_a_check_and_a_measurement():
    assert set(capability_check.CHECKS) == set(gpu_check.ALL)
    assert set(variants.VARIANTS) == set(gpu_check.ALL) - set(gpu_check.CHECKED_ONLY)


def make_working(variant):
    return {"kind": "variant", "step": variant, "state": "works", "why": None}


def test_a_network_is_only_measured_in_variants_that_work():
    rows = [make_working("torch-eager"), {"kind": "variant", "step": "tensorrt", "state": "fails", "why": "no"}]
    assert gpu_check.is_needed(Step("torch-eager", "vgg16"), rows)
    assert gpu_check.is_needed(Step("graphs", "vgg16"), rows)
    assert not gpu_check.is_needed(Step("tensorrt", "vgg16"), rows)
    assert not gpu_check.is_needed(Step("tensorrt-rtx", "vgg16"), rows)


def test_graphs_are_not_exported_if_no_variant_needs_them():
    assert not gpu_check.is_needed(Step("graphs", "vgg16"), [make_working("tensorrt-rtx-current")])


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_step_gets_half_of_the_remaining_time_and_at_least_a_minute(clock):
    budget = steps.Budget(485, clock)
    assert (budget.left, budget.share()) == (480, 240)
    clock.now += 390
    assert (budget.left, budget.share()) == (90, 60)
    clock.now += 60
    assert (budget.left, budget.share()) == (30, 30)
    clock.now += 100
    assert (budget.left, budget.share()) == (0, 0)


def test_a_step_without_enough_time_is_listed_and_not_begun(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "run_step", lambda *_: pytest.fail("begun"))
    budget = steps.Budget(100, clock)
    clock.now += 90
    why = "5 s were left of 100"
    [row] = gpu_check.take_step(Step("tensorrt", "vgg16"), [make_working("tensorrt")], budget, tmp_path, tmp_path)
    assert row == {"kind": "skipped", "step": "tensorrt", "network": "vgg16", "why": why}
    [row] = gpu_check.take_step(Step("tensorrt"), [], budget, tmp_path, tmp_path)
    assert (row["kind"], row["state"], row["why"]) == ("variant", "not tried", why)
    assert table.list_skipped([{"kind": "skipped", "step": "tensorrt", "network": "vgg16", "why": why}]) == [
        "- tensorrt vgg16: 5 s were left of 100"
    ]


def test_a_variant_that_does_not_work_is_not_listed_as_skipped(clock, tmp_path):
    budget = steps.Budget(0, clock)
    assert gpu_check.take_step(Step("tensorrt", "vgg16"), [], budget, tmp_path, tmp_path) == []


# ── Failing steps ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run_program_as_step(tmp_path, monkeypatch):
    """Rows of a step whose process runs this program in place of gpu_check."""

    def run(program, step, seconds=20.0):
        scripts = tmp_path / "scripts"
        scripts.mkdir()
        (scripts / "gpu_check").write_text(f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\n{program}")
        monkeypatch.setattr(steps, "PROGRAM", scripts / "gpu_check")
        return steps.run_step(step, seconds, tmp_path, tmp_path)

    return run


DYING = """
import os, signal
from pathlib import Path
from gpu.journal import Journal
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
journal = Journal(Path(words["--answer"]), words["--step"], words.get("--network"), 20)
journal.add_row("engine", precision="fp32", seconds=1.0, mib=2.0)
with journal.activity("deserializing"):
    os.kill(os.getpid(), signal.{signal})
"""


def test_a_check_killed_by_a_signal_fails_its_variant(run_program_as_step):
    rows = run_program_as_step(DYING.format(signal="SIGSEGV"), Step("tensorrt-rtx"))
    assert [row["kind"] for row in rows] == ["engine", "variant"]
    assert (rows[1]["state"], rows[1]["why"]) == ("fails", "died by SIGSEGV while deserializing")


def test_rows_written_before_a_crash_are_preserved(run_program_as_step):
    rows = run_program_as_step(DYING.format(signal="SIGABRT"), Step("tensorrt", "vgg16"))
    assert (rows[0]["kind"], rows[0]["network"], rows[0]["mib"]) == ("engine", "vgg16", 2.0)
    crash = {"step": "tensorrt", "network": "vgg16", "doing": "deserializing", "why": "died by SIGABRT"}
    assert rows[1] == {"kind": "failure", **crash}


def test_a_step_that_hangs_is_killed_with_its_children(run_program_as_step, tmp_path):
    program = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    start = time.monotonic()
    [row] = run_program_as_step(program, Step("torch-compile"), seconds=1.5)
    assert time.monotonic() - start < 20
    assert (row["state"], row["why"]) == ("fails", "not finished after 2 s, and killed")
    for _ in range(100):  # killed; reaping of orphans may need a moment
        stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
        if not stat.exists() or stat.read_text().rsplit(")")[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what it started still runs")


def test_a_step_that_raises_is_reported_with_the_last_line(run_program_as_step):
    [row] = run_program_as_step("raise RuntimeError('first\\nlast')", Step("graphs", "vgg16"))
    assert (row["kind"], row["doing"], row["why"]) == ("failure", None, "last")


def test_a_failure_within_a_step_is_a_row_that_names_the_innermost_activity(tmp_path):
    report = journal.Journal(tmp_path / "answer.json", "tensorrt", "vgg16", 10)

    def build():
        with report.activity("building the int8 engine"):
            raise ValueError("no tactic\nfor node conv1\n")

    assert not report.attempt("preparing int8", build, precision="int8")
    assert report.attempt("comparing", lambda: None)
    document = json.loads((tmp_path / "answer.json").read_text())
    assert document["doing"] is None
    [row] = document["rows"]
    assert (row["doing"], row["precision"]) == ("building the int8 engine", "int8")
    assert row["why"] == "ValueError: for node conv1"


# ── Capability checks ─────────────────────────────────────────────────────────────────────────────────────────────────


def check(tmp_path, variant):
    capability_check.check_variant(journal.Journal(tmp_path / "answer.json", variant, None, 60), variant)
    return json.loads((tmp_path / "answer.json").read_text())["rows"]


def test_a_missing_library_is_a_variant_that_fails_without_details(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    [row] = check(tmp_path, "tensorrt")
    assert (row["kind"], row["state"], row["details"]) == ("variant", "fails", {})
    assert "tensorrt" in row["why"]


def test_a_builder_that_needs_a_driver_is_not_called_without_one(tmp_path, monkeypatch):
    library = ModuleType("tensorrt")
    library.__version__, library.Builder = "11.4.0", lambda _: pytest.fail("called")
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(capability_check, "find_gpu", lambda: (None, "no NVIDIA driver is installed"))
    [row] = check(tmp_path, "tensorrt")
    assert (row["state"], row["why"]) == ("fails", "no NVIDIA driver is installed")
    assert row["details"] == {"version": "11.4.0"}


def test_tensorrt_rtx_without_a_driver_builds_and_does_not_deserialize(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(capability_check, "find_gpu", lambda: (None, "no NVIDIA driver is installed"))
    [row] = check(tmp_path, "tensorrt-rtx")
    assert row["state"] == "fails"
    assert row["why"].startswith("built an engine of ")
    assert row["why"].endswith("cannot run it: no NVIDIA driver is installed")
    assert row["details"]["plan_bytes"] > 0


def test_onnxruntime_runs_on_the_cpu(tmp_path):
    [row] = check(tmp_path, "onnxruntime-cpu")
    assert (row["state"], row["why"]) == ("works", None)


# ── Measuring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Doubled:
    """A runner that doubles, in 2 ms."""

    class Spec:
        name, dtype = "input", "float32"

    inputs = outputs = (Spec,)

    def run(self, arrays):
        time.sleep(0.002)
        return {"input": 2 * arrays["input"]}

    def run_timed(self, arrays):
        class Timings:
            h2d_ms, compute_ms, d2h_ms, enqueue_ms = 0.1, 0.5, 0.2, 0.05

        return self.run(arrays), Timings


def test_both_latencies_are_measured_separately(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "WARM_UP_S", 0.01)
    monkeypatch.setattr(variants, "MEASURE_S", 0.05)
    np.save(tmp_path / "inputs.npy", np.ones((3, 3, 4, 4), np.float32))
    report = journal.Journal(tmp_path / "answer.json", "tensorrt", "vgg16", 60)
    runner = Doubled()
    timed = variants.Candidate("fp16", "fp16", runner, ("a caveat",), partial(variants._time_runner, runner))
    plain = variants.Candidate("fp32", "fp32", runner, (), None)
    variants.measure_latency(report, [plain, timed], 8, tmp_path)
    first, second = json.loads((tmp_path / "answer.json").read_text())["rows"]
    assert "on_device_ms" not in first
    assert (second["on_device_ms"]["p50"], second["parts_p50_ms"]["h2d"]) == (0.5, 0.1)
    assert second["end_to_end_ms"]["p50"] >= 2
    assert first["rounds"] >= variants.ROUNDS_AT_LEAST
    assert (second["batch"], second["caveats"], second["ratio"]["to"]) == (8, ["a caveat"], "fp32")


def test_missing_sensors_read_as_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.read_sensors() is None


def test_sensors_are_read_from_nvidia_smi_where_its_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\n[ "$2" = GPU-1234 ] && echo "1980, 3201, 41, 118.52, 0x0000000000000004"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1234,GPU-5678")
    sensors = machine.read_sensors()
    assert (sensors["clocks.sm"], sensors["power.draw"], sensors["source"]) == (1980, 118.52, "nvidia-smi")
    assert sensors["clocks_event_reasons.active"] == "0x0000000000000004"


# ── The report ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_report():
    """A document of a GPU machine, with invented figures."""
    gpu = {"name": "NVIDIA Test", "compute_capability": 90, "driver": "580.1", "memory_bytes": 2**37}
    at = {"step": "tensorrt", "network": "resnet50"}
    warm, hot = {"clocks.sm": 1980.0, "source": "x"}, {"clocks.sm": 1755.0, "source": "x"}
    latency = {"kind": "latency", **at, "rounds": 300, "before": warm, "after": hot, "caveats": []}
    return {
        "gpu_check": 2,
        "date": "2026-01-02T03:04:05+00:00",
        "seconds": 90.0,
        "budget_s": 480.0,
        "rows": [
            {"kind": "machine", "step": "machine", "gpu": gpu, "absence": None, "libraries": {"tensorrt": "11.4"}}
            | {"python": "3.12.1", "system": "Linux", "cores": 16, "processor": "Some CPU", "why": []},
            make_working("tensorrt") | {"details": {"version": "11.4"}},
            {"kind": "validity", "step": "tensorrt-rtx", "validity": "SUBOPTIMAL", "diagnostics": "4"},
            {"kind": "variant", "step": "tensorrt-rtx", "state": "fails", "why": "died by SIGSEGV", "details": {}},
            {
                "kind": "graph",
                "step": "graphs",
                "network": "resnet50",
                "precision": "int8",
                "seconds": 9.0,
                "mib": 25.0,
            },
            {"kind": "engine", **at, "precision": "int8", "seconds": 31.25, "mib": 27.5, "settings": []},
            {"kind": "receipt", **at, "precision": "int8", "shares": {"int8": 0.985, "fp32": 0.015}},
            {"kind": "parity", **at, "precision": "int8", "passed": False, "failures": ["SNR 9.0 dB | below 10"]}
            | {"max_relative": 0.3, "cosine": 0.9, "snr_db": 9.0, "top1_agreement": 0.5},
            {**latency, "precision": "int8", "batch": 1, "end_to_end_ms": {"p50": 0.4}, "on_device_ms": {"p50": 0.25}}
            | {"ratio": {"to": "fp32", "ratio": 0.5, "low": 0.4, "high": 0.6}},
            {
                "kind": "failure",
                **at,
                "precision": "fp16",
                "doing": "building the fp16 engine",
                "why": "RuntimeError: no",
            },
        ],
    }


def test_the_page_has_every_figure_of_the_document():
    text = table.render_report(make_report())
    assert "- GPU: NVIDIA Test, SM 9.0, 128.0 GiB, driver 580.1" in text
    assert "| tensorrt | works | 11.4 | – |" in text
    assert (
        "| resnet50 | tensorrt | int8 | 31.2 | 27.5 | 98.5% | FAILED | 3.0e-01 | 9.0 | 50% "
        "| 0.400 | 0.250 | – | – | 0.500 (0.400 to 0.600) |"
    ) in text
    assert "| tensorrt resnet50 fp16 | building the fp16 engine | RuntimeError: no |" in text
    assert "| tensorrt resnet50 int8 | parity | SNR 9.0 dB \\| below 10 |" in text
    assert "| resnet50 | tensorrt | 1 | 1980.0 → 1755.0 | x → x |" in text


def test_the_page_states_whether_tensorrt_rtx_runs_on_this_machine():
    text = table.render_report(make_report())
    assert "- tensorrt-rtx: engine validity / run result: SUBOPTIMAL (4) / fails: died by SIGSEGV" in text


def test_sections_without_rows_are_omitted():
    report = make_report() | {"rows": []}
    text = table.render_report(report)
    assert "##" not in text
    assert "- GPU: none: not queried" in text


def test_the_verdict_names_a_missing_gpu_and_exits_with_4():
    rows = [
        {"kind": "machine", "gpu": None, "absence": "no NVIDIA driver is installed"},
        make_working("onnxruntime-cpu"),
    ]
    code, sentence = gpu_check.judge_rows(rows)
    assert code == 4
    assert sentence.startswith("No GPU: no NVIDIA driver is installed. ")


def test_a_gpu_without_a_working_variant_exits_with_4():
    assert gpu_check.judge_rows([{"kind": "machine", "gpu": {"name": "NVIDIA Test"}}])[0] == 4


def test_an_output_outside_tolerance_exits_with_1_and_all_good_with_0():
    rows = make_report()["rows"]
    assert gpu_check.judge_rows(rows)[0] == 1
    assert gpu_check.judge_rows([row for row in rows if row["kind"] != "parity"]) == (0, "Working: tensorrt.")


def test_a_python_without_packages_gets_a_report_too(tmp_path):
    for name in ("msgspec", "torch", "tensorrt"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')")
    words = [sys.executable, SCRIPTS / "gpu_check", "--variants", "tensorrt", "torch-eager", "-o", tmp_path / "out"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 4, answer.stderr
    document = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert document["gpu_check"] == gpu_check.VERSION
    assert [row["kind"] for row in document["rows"]] == ["machine", "variant", "variant"]
    assert [row["state"] for row in document["rows"][1:]] == ["fails", "fails"]
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "deploykit cannot be imported: ModuleNotFoundError: No module named" in text
    assert "| torch-eager | fails | – | ModuleNotFoundError: No module named torch |" in text


@pytest.mark.slow
def test_a_machine_without_a_gpu_gets_the_cpus_rows_and_exit_code_4(tmp_path):
    from deploykit.backends.tensorrt.driver import query_driver

    if query_driver().gpu is not None:
        pytest.skip("this machine has a GPU")
    words = ["--networks", "nin_cifar10", "--variants", "tensorrt", "onnxruntime-cpu", "--seconds", "300"]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "gpu_check", *words, "-o", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith("No GPU: ")
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    measured = [(row["precision"], row["batch"]) for row in rows if row["kind"] == "latency"]
    assert measured == [(precision, batch) for batch in (1, 8) for precision in ("fp32", "fp16", "int8")]
    assert {row["step"] for row in rows if row["kind"] == "latency"} == {"onnxruntime-cpu"}


def test_signals_have_names():
    assert steps.describe_exit(-signal.SIGSEGV, Path("unread"), 1) == "died by SIGSEGV"


class Convolution:
    """A TensorRT double in one object, which reads and writes tensors at the bound addresses."""

    def __init__(self, factor):
        self.factor, self.addresses, self.plans = factor, {}, []

        self.batch = 1

    def create_engine_inspector(self):
        return self

    def get_engine_information(self, _):
        return "layers"

    def set_input_shape(self, _, shape):
        self.batch = shape[0]
        return self.batch <= 8

    def get_tensor_shape(self, name):
        return (self.batch, 3 if name == "x" else 4, 16, 16)

    def get_engine_validity(self, plan):
        self.plans.append(plan)
        return SimpleNamespace(name="VALID"), 0

    def deserialize_cuda_engine(self, plan):
        self.plans.append(plan)
        return self

    def create_execution_context(self):
        return self

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        kernel, bias = capability_check._make_weights()
        x, y = (self.at(name, (self.batch, channels, 256)) for name, channels in (("x", 3), ("y", 4)))
        y[:] = self.factor * (kernel[:, :, 0, 0] @ x + bias[:, None])
        return stream == 7

    def at(self, name, shape):
        size = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name])).reshape(shape)


@pytest.fixture
def run_on_simulated_gpu(tmp_path, monkeypatch):
    """The rows of the TensorRT-RTX check with a pretended GPU whose memory is the host's."""

    def run(factor):
        import torch

        library, stand_in = ModuleType("tensorrt_rtx"), Convolution(factor)
        library.__version__, library.Builder, library.Runtime = "1.7", object, lambda _: stand_in
        stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
        monkeypatch.setattr(capability_check, "find_gpu", lambda: ({"name": "NVIDIA Test"}, None))
        monkeypatch.setattr(capability_check, "_make_logger", lambda *_: None)
        monkeypatch.setattr(capability_check, "_build_plan", lambda *_, **__: b"plan")
        monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda shape, **_: empty(shape))
        rows = check(tmp_path, "tensorrt-rtx")
        assert stand_in.plans == [b"plan", b"plan"]
        return rows

    return run


def test_an_engine_with_the_right_result_is_a_variant_that_works(run_on_simulated_gpu):
    validity, variant = run_on_simulated_gpu(1.0)
    assert (validity["kind"], validity["validity"], validity["diagnostics"]) == ("validity", "VALID", "0")
    assert (variant["state"], variant["details"]["plan_bytes"]) == ("works", 4)
    assert variant["details"]["error"] < 1e-5


def test_an_engine_with_a_wrong_result_fails_its_variant(run_on_simulated_gpu):
    _, variant = run_on_simulated_gpu(1.1)
    assert (variant["state"], variant["why"]) == ("fails", "ran, and its result is wrong by 1.0e-01 of full scale")


class Event:
    """A CUDA event double on the host's clock."""

    def __init__(self, **_):
        self.time = None

    def record(self):
        self.time = time.perf_counter()

    def elapsed_time(self, other):
        return 1e3 * (other.time - self.time)


@pytest.fixture
def runner(monkeypatch, tmp_path):
    """Runs a plan of a convolution without pycuda, in the host's memory."""
    import torch

    from deploykit.core.values import TensorSpec

    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=7, synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    (tmp_path / "engine.plan").write_bytes(b"plan")
    stand_in = Convolution(1.0)
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda *_: None})
    formats = SimpleNamespace(JSON=2)
    library = SimpleNamespace(Logger=logger, Runtime=lambda _: stand_in, LayerInformationFormat=formats)
    specs = (TensorSpec(name, "float32", ("batch", size, 16, 16), "NCHW") for name, size in (("x", 3), ("y", 4)))
    return plan_runner.PlanRunner(library, tmp_path / "engine.plan", *((spec,) for spec in specs), device="cpu")


def test_without_pycuda_a_plan_runs_with_pytorchs_memory(runner):
    kernel, bias = capability_check._make_weights()
    outputs = {}
    for batch in (1, 8, 1):
        pixels = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16), np.float32)
        answer, timings = runner.run_timed({"x": pixels})
        expected = np.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], pixels) + bias[:, None, None]
        np.testing.assert_allclose(answer["y"], expected, atol=1e-5)
        assert min(timings) >= 0
        outputs.setdefault(batch, answer["y"])
    np.testing.assert_array_equal(outputs[1], answer["y"])  # the buffers were reused since then
    assert runner.inspect_engine() == "layers"


def test_a_batch_that_the_plan_rejects_raises(runner):
    with pytest.raises(RuntimeError, match="the engine rejects x with shape"):
        runner.run({"x": np.zeros((9, 3, 16, 16), np.float32)})


def test_without_a_driver_a_plan_is_not_deserialized(monkeypatch, tmp_path):
    monkeypatch.setattr(variants.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(variants, "find_gpu", lambda: (None, "no NVIDIA driver is installed"))
    monkeypatch.setattr(variants, "PlanRunner", lambda *_: pytest.fail("deserialized"))
    with pytest.raises(RuntimeError, match="no NVIDIA driver is installed"):
        variants._load_engine("tensorrt-rtx", None, None, tmp_path)


# ── Stages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def packed(tmp_path):
    """A packed folder of two parts: a wheel, and an archive in two pieces that holds `library.py`."""
    wheels, content = tmp_path / "wheels", tmp_path / "content"
    for folder in (wheels, content):
        folder.mkdir()
    with zipfile.ZipFile(wheels / "small-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small.py", "")
    archive = tmp_path / "tensorrt_rtx.archive"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("library.py", bytes(np.random.default_rng(0).integers(0, 256, 3 * pack.MIB, np.uint8)))
    pack.write_parts(tmp_path / "packed", wheels, [archive], 2 * pack.MIB)
    return tmp_path / "packed"


def test_an_archive_is_split_over_parts_and_joined_again(packed, tmp_path):
    assert sorted(path.name for path in packed.iterdir()) == ["1", "2"]
    assert all(pack.measure_size(part) <= 2 * pack.MIB for part in packed.iterdir())
    variables = stages.prepare_workspace(stages.STAGES["three"], packed, tmp_path / "workspace")
    assert variables["PYTHONPATH"].split(os.pathsep)[:2] == [
        *(str(tmp_path / "workspace" / name) for name in ("tensorrt_rtx", "site")),
    ]
    assert (tmp_path / "workspace/tensorrt_rtx/library.py").stat().st_size == 3 * pack.MIB
    assert (tmp_path / "workspace/site/small.py").exists()


def test_parts_may_be_brought_one_after_the_other(packed, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(packed / "1", first / "1")
    shutil.copytree(packed / "2", second / "2")
    stages.prepare_workspace(stages.STAGES["one"], first, tmp_path / "workspace")
    with pytest.raises(stages.StageError, match="pieces of tensorrt_rtx are missing or damaged"):
        stages.prepare_workspace(stages.STAGES["three"], first, tmp_path / "workspace")
    stages.prepare_workspace(stages.STAGES["three"], second, tmp_path / "workspace")
    assert (tmp_path / "workspace/tensorrt_rtx/library.py").exists()


def test_a_folder_without_part_1_is_refused(tmp_path):
    with pytest.raises(stages.StageError, match="it must hold part 1"):
        stages.prepare_workspace(stages.STAGES["one"], tmp_path, tmp_path / "workspace")


def test_every_step_of_a_stage_ends_with_a_row(packed, tmp_path, monkeypatch, clock):
    """Also those whose variant does not work here, whose graphs exist, or that have no time left."""
    begun = []

    def run_step(step, _seconds, _work, _output, _variables):
        begun.append(str(step))
        clock.now += 100 if step.name == "tensorrt-rtx-current" else 1
        kind = "variant" if step.name.startswith("tensorrt") else "note"
        return [{"kind": kind, **step.stamp, "state": "fails", "why": "no NVIDIA driver", "text": ""}]

    monkeypatch.setattr(stages, "run_step", run_step)
    for precision in ("fp32", "fp16", "int8"):
        folder = tmp_path / "workspace/steps/vgg16" / precision
        folder.mkdir(parents=True)
        (folder / "graph.json").touch()
    reports = []
    budget = steps.Budget(1000, clock)
    workspace = tmp_path / "workspace"
    rows = stages.run_stage(
        "three", "vgg16", packed, workspace, tmp_path, budget, lambda rows: reports.append(len(rows))
    )
    assert begun == ["machine", "tensorrt-rtx", "tensorrt-rtx-current"]
    assert [row["step"] for row in rows] == [limited.name for limited in stages.STAGES["three"].steps]
    assert [row["why"] for row in rows if row["kind"] == "skipped"] == [
        "an earlier stage made them",
        "tensorrt-rtx does not work here: see its row",
    ]
    assert reports == [1, 2, 3, 4, 5]


def test_a_later_stages_report_has_the_earlier_rows(tmp_path):
    stages.save_rows(tmp_path, "one", [{"kind": "note", "text": "first"}])
    stages.save_rows(tmp_path, "two", [{"kind": "note", "text": "second"}])
    assert [row["text"] for row in stages.load_rows(tmp_path, other_than="two")] == ["first"]
    assert [row["text"] for row in stages.load_rows(tmp_path, other_than="three")] == ["first", "second"]


def make_fat_binary(**code):
    """A fat binary with an entry of 64 bytes of header for each `sm90=b"..."`."""
    body = b""
    for name, content in code.items():
        header = bytearray(struct.pack("<HHIQ", 2, 0, 64, len(content)).ljust(64, b"\0"))
        struct.pack_into("<I", header, 28, int(name.removeprefix("sm")))
        body += header + content
    return struct.pack("<IHHQ", gpu_code.FATBIN_MAGIC, 1, 16, len(body)) + body


def test_machine_code_for_other_gpus_is_blanked_if_there_is_code_for_this_one(tmp_path, monkeypatch):
    library, pruned = tmp_path / "library.so", tmp_path / "pruned.so"
    other = make_fat_binary(sm80=b"B" * 32)
    library.write_bytes(make_fat_binary(sm80=b"A" * 32, sm90=b"H" * 32) + bytes(8) + other)
    monkeypatch.setattr(gpu_code, "find_fatbin_section", lambda path: (0, path.stat().st_size))
    gpu_code.blank_other_gpus(library, pruned, 90)
    assert pruned.read_bytes() == library.read_bytes().replace(b"A" * 32, bytes(32))
    with pytest.raises(ValueError, match="no machine code for compute capability 120"):
        gpu_code.blank_other_gpus(library, pruned, 120)


def test_the_runner_checks_report_a_missing_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_checks, "find_gpu", lambda: (None, "no NVIDIA driver is installed"))
    runner_checks.check_runner(journal.Journal(tmp_path / "answer.json", "runner-torch-first", None, 60), "torch-first")
    [row] = json.loads((tmp_path / "answer.json").read_text())["rows"]
    assert (row["kind"], row["state"], row["why"]) == ("check", "not run", "no NVIDIA driver is installed")


def test_the_runner_checks_run_with_each_memory_library(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "tests/backends/tensorrt"))
    importlib.import_module("cuda_doubles").install(monkeypatch)
    memory = importlib.import_module("deploykit.backends.tensorrt.memory")

    def refuse():
        raise ImportError("no such module")

    monkeypatch.setitem(memory.LIBRARIES, "a third", refuse)
    monkeypatch.setattr(runner_checks, "find_gpu", lambda: ("a GPU", None))
    monkeypatch.setattr(runner_checks, "initialize_torch", lambda: "2.11")
    monkeypatch.setattr(runner_checks, "gc", SimpleNamespace(collect=lambda: None))  # of all the suite's objects

    def name_library():
        with memory.on_gpu("testing") as library:
            return library.name

    for check in ("check_batches", "check_threads", "check_refused_capture", "read_gpu_times", "check_torch_tensors"):
        monkeypatch.setattr(runner_checks, check, name_library)
    used = memory.load_memory_library
    runner_checks.check_runner(journal.Journal(tmp_path / "answer.json", "runner-torch-first", None, 60), "torch-first")
    missing, torch, *rows = json.loads((tmp_path / "answer.json").read_text())["rows"]
    assert (missing["check"], missing["state"]) == ("runner, a third", "not run")
    assert (torch["check"], torch["why"]) == ("PyTorch initializes CUDA", "2.11")
    assert [row["state"] for row in rows] == ["passed"] * 10
    assert [row["check"].rpartition(", ")[2] for row in rows] == ["pycuda 2026.1"] * 5 + ["cuda-bindings 13.5.0"] * 5
    assert all(row["check"].endswith(row["why"]) for row in rows), "the library that the row names is the one that ran"
    assert memory.load_memory_library is used


@pytest.mark.parametrize("library", ["pycuda", "cuda-bindings"])
def test_the_runner_checks_pass_on_doubles_of_the_driver(monkeypatch, library):
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "tests/backends/tensorrt"))
    gpu = importlib.import_module("cuda_doubles").install(monkeypatch, library)
    monkeypatch.setattr(runner_checks, "WIDTH", 4)

    def copy(target, source, nbytes, stream):
        gpu.streams[stream].put(lambda: np.copyto(gpu.bytes_at(target, nbytes), gpu.bytes_at(source, nbytes)))
        return True

    assert "CUDA graphs used" in runner_checks.check_batches(copy)
    assert runner_checks.check_threads(copy=copy) == "4 threads of 40 calls"
    assert "GpuTimes" in runner_checks.read_gpu_times(copy=copy)
    gpu.refuses["end capture"] = 901
    assert "no CUDA graph is used" in runner_checks.check_refused_capture(disturb=lambda: None, copy=copy)


def test_a_failed_check_exits_with_1():
    rows = [make_working("torch-eager"), {"kind": "check", "state": "failed"}, {"kind": "check", "state": "passed"}]
    assert gpu_check.judge_rows(rows) == (1, "0 outputs outside tolerance, 1 checks failed: see the report.")
