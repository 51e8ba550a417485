"""scripts/gpu_check where there is no GPU: planning, steps that fail, stages, packing, and the report."""

import ctypes
import importlib
import io
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

import gpu_doubles
import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load():
    """The program and its modules by name; it changes the import path, which is restored."""
    paths = list(sys.path)
    loader = SourceFileLoader("gpu_check", str(SCRIPTS / "gpu_check"))
    module = module_from_spec(spec_from_loader("gpu_check", loader))
    loader.exec_module(module)
    names = [path.stem for path in (SCRIPTS / "gpu").glob("*.py")]
    parts = {name: importlib.import_module(f"gpu.{name}") for name in names}
    sys.path[:] = paths
    return module, SimpleNamespace(**parts)


gpu_check, gpu = load()
background, capability_check, gpu_code = gpu.background, gpu.capability_check, gpu.gpu_code
journal, machine = gpu.journal, gpu.machine
onnxruntime_cuda, pack, plan_check, plan_runner = gpu.onnxruntime_cuda, gpu.pack, gpu.plan_check, gpu.plan_runner
runner_checks, stages, steps, table = gpu.runner_checks, gpu.stages, gpu.steps, gpu.table
timing, variants = gpu.timing, gpu.variants
Step = steps.Step


# ── Planning ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_variant_is_checked_before_any_network_and_compilation_and_the_cpu_are_last():
    planned = gpu_check.plan_steps(gpu_check.ALL, ["resnet50", "vgg16"])
    assert planned[0] == Step("machine")
    assert [step.name for step in planned[1:9]] == list(gpu_check.ALL)
    of_resnet = [step.name for step in planned if step.network == "resnet50"]
    assert of_resnet == [
        *("graphs", "graphs-int8", "tensorrt", "tensorrt-plans", "tensorrt-rtx", "tensorrt-rtx-plans"),
        *("onnxruntime-cuda", "onnxruntime-cuda-sessions", "torch-eager", "torch-compile", "torch-reduce-overhead"),
        *("onnxruntime-cpu", "torch-eager-cpu"),
    ]
    assert [str(step) for step in planned[-8:-4]] == [
        *("torch-compile resnet50", "torch-reduce-overhead resnet50"),
        *("torch-compile vgg16", "torch-reduce-overhead vgg16"),
    ]


def test_only_selected_variants_are_planned_in_the_usual_order():
    planned = gpu_check.plan_steps(["torch-eager", "onnxruntime-cuda"], ["vgg16"])
    assert [str(step) for step in planned] == [
        *("machine", "onnxruntime-cuda", "torch-eager", "graphs vgg16"),
        *("onnxruntime-cuda vgg16", "onnxruntime-cuda-sessions vgg16", "torch-eager vgg16"),
    ]


def test_every_planned_variant_has_a_check_and_a_measurement():
    assert set(capability_check.CHECKS) == set(gpu_check.ALL)
    measured = {step for variant in gpu_check.ALL for step in gpu_check.list_measured([variant])}
    assert {step for step in measured if Step(step).is_variant} - set(gpu_check.CHECKED_ONLY) == set(variants.VARIANTS)


def make_working(variant):
    return {"kind": "variant", "step": variant, "state": "works", "why": None}


def test_a_network_is_only_measured_in_variants_that_work():
    rows = [make_working("torch-eager"), {"kind": "variant", "step": "tensorrt", "state": "fails", "why": "no"}]
    assert gpu_check.is_needed(Step("torch-eager", "vgg16"), rows)
    assert gpu_check.is_needed(Step("graphs", "vgg16"), rows)
    assert not gpu_check.is_needed(Step("tensorrt", "vgg16"), rows)
    assert not gpu_check.is_needed(Step("tensorrt-rtx", "vgg16"), rows)
    assert gpu_check.is_needed(Step("torch-reduce-overhead", "vgg16"), [make_working("torch-compile")])


def test_int8_graphs_are_made_where_something_computes_in_int8():
    assert not gpu_check.is_needed(Step("graphs-int8", "vgg16"), [make_working("onnxruntime-cuda")])
    assert gpu_check.is_needed(Step("graphs-int8", "vgg16"), [make_working("tensorrt")])


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
    [row] = gpu_check.take_step(Step("tensorrt", "vgg16"), [make_working("tensorrt")], budget, tmp_path)
    assert row == {"kind": "skipped", "step": "tensorrt", "network": "vgg16", "why": why}
    [row] = gpu_check.take_step(Step("tensorrt"), [], budget, tmp_path)
    assert (row["kind"], row["state"], row["why"]) == ("variant", "not tried", why)
    assert table.list_skipped([{"kind": "skipped", "step": "tensorrt", "network": "vgg16", "why": why}]) == [
        "- tensorrt vgg16: 5 s were left of 100"
    ]


def test_a_variant_that_does_not_work_is_not_listed_as_skipped(clock, tmp_path):
    budget = steps.Budget(0, clock)
    assert gpu_check.take_step(Step("tensorrt", "vgg16"), [], budget, tmp_path) == []


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


def test_onnxruntime_runs_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    [row] = check(tmp_path, "onnxruntime-cpu")
    assert (row["state"], row["why"]) == ("works", None)


# ── Measuring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short warm-ups and measurements."""
    monkeypatch.setattr(timing, "WARM_UP_S", 0.001)
    monkeypatch.setattr(variants, "WARM_UP_S", 0.001)
    monkeypatch.setattr(timing, "MEASURE_S", 0.001)


NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
g (float[batch,3,4,4] input) => (float[batch,3] logits) {
    two = Constant<value = float[1] {2.0}>()
    mean = ReduceMean<axes = [2, 3], keepdims = 0>(input)
    logits = Mul(mean, two)
}"""
"""What `gpu_doubles.Network` computes."""


@pytest.fixture
def folder(tmp_path):
    """A network's folder as the step `graphs` leaves it, with three samples of 3×4×4."""
    import msgspec
    import onnx.parser

    from deploykit.core.values import DataRecord

    inputs = np.random.default_rng(0).standard_normal((3, 3, 4, 4), np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "reference_outputs.npy", 2 * inputs.mean((2, 3)))
    record = DataRecord(name="photos", split="evaluation", real=True, count=3, sha256="0" * 64, labelled=False)
    (tmp_path / "data.json").write_bytes(msgspec.json.encode(record))
    for precision in ("fp32", "fp16"):
        (tmp_path / precision).mkdir()
        (tmp_path / precision / "graph.json").write_text('{"file": "model.onnx"}')
        (tmp_path / precision / "model.onnx").write_bytes(onnx.parser.parse_model(NETWORK).SerializeToString())
    return tmp_path


@pytest.fixture
def report(tmp_path, monkeypatch):
    """The journal of a step that gets its turn at once, with `read_rows`."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("60\n"))
    written = journal.Journal(tmp_path / "answer.json", "a-step", "vgg16", 60)
    written.read_rows = lambda kind: [
        row for row in json.loads((tmp_path / "answer.json").read_text())["rows"] if row["kind"] == kind
    ]
    return written


def test_a_step_waits_for_its_turn_which_sets_its_time(report, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("7.5\n"))
    report.await_turn()
    assert 7 < report.remaining_s() <= 7.5


def test_a_step_that_nobody_waits_for_ends(report, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SystemExit):
        report.await_turn()


def test_a_warm_up_lasts_as_long_as_it_should_and_three_calls_at_least():
    calls = []
    assert timing.warm_up(lambda: calls.append(time.sleep(0.002)), 0.05) >= 0.002
    assert 5 < len(calls) <= 26
    calls.clear()
    timing.warm_up(lambda: calls.append(1), 0)
    assert len(calls) == 3


def test_a_call_is_timed_by_events_on_its_stream(monkeypatch):
    gpu_doubles.install(monkeypatch)
    fields = timing.time_on_stream(lambda: time.sleep(0.002), gpu_doubles.Stream())
    assert 2 <= fields["on_device_ms"]["p50"] <= fields["host_ms"]["p50"]
    assert fields["calls"] == timing.CALLS_AT_LEAST
    assert fields["timed_by"] == "CUDA events"


class Engine:
    """A loaded engine of deploykit's: doubles the mean per channel; `gpu_times` as TensorRT's runner has it."""

    caveats = ("a caveat",)

    def __init__(self, factor=2.0):
        from deploykit.core.values import TensorSpec

        self.factor, self.called = factor, 0
        self.inputs = (TensorSpec("input", "float32", ("batch", 3, 4, 4), "NCHW"),)
        self.outputs = (TensorSpec("logits", "float32", ("batch", 3), "NC"),)

    def run(self, arrays):
        self.called += 1
        return {"logits": self.factor * arrays["input"].mean((2, 3))}

    def run_timed(self, arrays):
        return self.run(arrays), SimpleNamespace(h2d_ms=0.1, compute_ms=0.9, d2h_ms=0.2, enqueue_ms=0.05)

    def gpu_times(self, _arrays, _calls):
        from deploykit.core.values import GpuTimes

        return GpuTimes(False, 0.1, 0.5, 0.2, 0.4), GpuTimes(True, 0.1, 0.25, 0.2, 0.01)


def measure_engine(report, folder, engine):
    candidate = variants.Candidate("fp16", engine, (), partial(variants._time_engine, engine))
    variants.measure_precision(report, "fp16", lambda: candidate, folder)


def test_an_engine_is_timed_with_and_without_a_cuda_graph_at_every_batch_size(report, folder):
    measure_engine(report, folder, Engine())
    rows = report.read_rows("latency")
    on_device = [(row["batch"], row["cuda_graph"], row["on_device_ms"]["p50"]) for row in rows if "on_device_ms" in row]
    assert on_device == [(batch, graph, 0.25 if graph else 0.5) for batch in (1, 8, 32) for graph in (False, True)]
    assert [row["batch"] for row in rows if "end_to_end_ms" in row] == [1, 8, 32]
    assert {tuple(row["caveats"]) for row in rows} == {("a caveat",)}


def test_an_engine_whose_gpu_times_fail_is_timed_by_its_calls(report, folder):
    engine = Engine()
    engine.gpu_times = lambda *_: 1 / 0
    measure_engine(report, folder, engine)
    rows = [row for row in report.read_rows("latency") if "on_device_ms" in row]
    assert [(row["cuda_graph"], row["on_device_ms"]["p50"]) for row in rows] == [(None, 0.9)] * 3
    assert report.read_rows("failure") == []


def test_parity_is_evaluated_at_every_batch_size_on_every_sample(report, folder):
    measure_engine(report, folder, Engine())
    rows = report.read_rows("parity")
    assert [(row["batch"], row["passed"], row["samples"]) for row in rows] == [(b, True, 3) for b in (1, 8, 32)]
    assert max(row["max_relative"] for row in rows) < 1e-6


def test_an_engine_that_computes_otherwise_fails_parity(report, folder):
    measure_engine(report, folder, Engine(2.1))
    [row, *_] = report.read_rows("parity")
    assert not row["passed"]
    assert 25 < row["snr_db"] < 27


def test_no_batch_size_is_begun_without_time(report, folder, monkeypatch):
    monkeypatch.setattr(report, "remaining_s", lambda: 1.0)
    measure_engine(report, folder, Engine())
    assert [row["batch"] for row in report.read_rows("skipped")] == [1, 8, 32]
    assert report.read_rows("latency") == []


def time_module(is_graph=False, with_graph=False):
    import torch

    runner = variants.ModuleRunner(gpu_doubles.Network(), (3, 4, 4), "cpu", torch.float32, torch.contiguous_format)
    return list(variants._time_module(runner, is_graph, with_graph, np.ones((8, 3, 4, 4), np.float32)))


def test_a_module_is_timed_as_pytorch_launches_it_and_as_a_cuda_graph(monkeypatch):
    gpu_doubles.install(monkeypatch)
    assert [row["cuda_graph"] for row in time_module(with_graph=True)] == [False, True]
    assert [row["cuda_graph"] for row in time_module(is_graph=True)] == [True]


def test_a_cuda_graph_that_repeats_its_first_output_is_found_out(monkeypatch):
    gpu_doubles.install(monkeypatch)
    monkeypatch.setattr(gpu_doubles.CudaGraph, "stale", True)
    with pytest.raises(RuntimeError, match="the CUDA graph's output is off by"):
        time_module(with_graph=True)


@pytest.fixture
def inspect_provider(report, folder, monkeypatch):
    """Inspect the CUDA provider's double; returns the provider options of every session."""

    def inspect(**options):
        opened = []
        gpu_doubles.install(monkeypatch)
        gpu_doubles.install_provider(monkeypatch, opened, **options)
        monkeypatch.setattr(onnxruntime_cuda, "find_gpu", lambda: ({"name": "NVIDIA Test"}, None))
        monkeypatch.setattr(onnxruntime_cuda, "read_kernels", lambda *_: "a kernel")
        onnxruntime_cuda.inspect_provider(report, folder)
        return opened

    return inspect


def test_onnxruntime_is_measured_in_three_configurations_with_and_without_cuda_graphs(inspect_provider, report):
    opened = inspect_provider()
    assert all(options["use_tf32"] == "0" for options in opened)
    measured = [(row["precision"], row["batch"], row["cuda_graph"]) for row in report.read_rows("latency")]
    names, sizes = ("fp16 nhwc", "fp16", "fp32"), (1, 8, 32)
    assert measured == [(name, batch, graph) for name in names for batch in sizes for graph in (True, False)]
    assert all(row["passed"] for row in report.read_rows("parity"))
    assert len(report.read_rows("parity")) == len(measured)
    placements = [row for row in report.read_rows("check") if row["check"] == "placement"]
    assert all("Mul (float) 1" in row["why"] for row in placements)


def test_where_onnxruntime_refuses_cuda_graphs_the_rest_is_measured(inspect_provider, report):
    inspect_provider(refuse_graphs=True)
    assert {row["cuda_graph"] for row in report.read_rows("latency")} == {False}
    assert {row["doing"] for row in report.read_rows("failure")} == {
        f"opening the {name} session with CUDA graphs" for name in ("fp16 nhwc", "fp16", "fp32")
    }


def test_trtexecs_gpu_time_is_read():
    output = (
        "[I] Latency: min = 1 ms, max = 2 ms, mean = 1 ms, median = 1.5 ms, percentile(90%) = 1.7 ms\n"
        "[I] GPU Compute Time: min = 0.4 ms, max = 0.9 ms, mean = 0.6 ms, median = 0.5 ms, "
        "percentile(90%) = 0.7 ms, percentile(99%) = 0.8 ms\n"
    )
    assert plan_check.read_gpu_compute_time(output) == {"p50": 0.5, "p90": 0.7, "p99": 0.8}
    assert plan_check.read_gpu_compute_time("error") is None


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


def make_latency(step, precision, batch, p50, cuda_graph=None, **fields):
    at = {"step": step, "network": "resnet50", "precision": precision, "batch": batch}
    warm, hot = {"clocks.sm": 1980.0, "source": "x"}, {"clocks.sm": 1755.0, "source": "x"}
    figures = {"cuda_graph": cuda_graph, "on_device_ms": {"p50": p50}, "before": warm, "after": hot, "caveats": []}
    return {"kind": "latency", **at, **figures, **fields}


def make_report():
    """A document of a GPU machine, with invented figures."""
    driver = {"name": "NVIDIA Test", "compute_capability": 90, "driver": "580.1", "memory_bytes": 2**37}
    at = {"step": "tensorrt", "network": "resnet50"}
    facts = {"python": "3.12.1", "system": "Linux", "cores": 16, "processor": "Some CPU", "why": []}
    on_gpu = {"kind": "machine", "step": "machine", "gpu": driver, "absence": None, **facts}
    parity = {"kind": "parity", **at, "precision": "int8", "cosine": 0.9, "samples": 16}
    compiled, fp16_last = "torch-compile", "fp16 channels_last"
    return {
        "gpu_check": 3,
        "date": "2026-01-02T03:04:05+00:00",
        "seconds": 90.0,
        "budget_s": 480.0,
        "rows": [
            on_gpu | {"libraries": {"onnxruntime": "1.30"}},
            on_gpu | {"libraries": {"onnxruntime": "1.31"}},
            make_working("tensorrt") | {"details": {"version": "11.4"}},
            {"kind": "validity", "step": "tensorrt-rtx", "validity": "SUBOPTIMAL", "diagnostics": "4"},
            {"kind": "variant", "step": "tensorrt-rtx", "state": "fails", "why": "died by SIGSEGV", "details": {}},
            {"kind": "graph", **at, "precision": "int8", "seconds": 9.0, "mib": 25.0},
            {"kind": "engine", **at, "precision": "int8", "seconds": 31.25, "mib": 27.5, "settings": []},
            {"kind": "receipt", **at, "precision": "int8", "shares": {"int8": 0.985, "fp32": 0.015}},
            parity
            | {"batch": 1, "passed": True, "failures": [], "max_relative": 0.1, "snr_db": 20.0, "top1_agreement": 1.0},
            parity
            | {"batch": 8, "passed": False, "failures": ["SNR 9.0 dB | below 10"]}
            | {"max_relative": 0.3, "snr_db": 9.0, "top1_agreement": 0.5},
            make_latency(compiled, fp16_last, 8, 2.0, False),
            make_latency(compiled, fp16_last, 8, 0.9, True),
            make_latency("onnxruntime-cuda", "fp16", 8, 1.6, True),
            make_latency("onnxruntime-cuda-sessions", "fp16 nhwc", 8, 0.6, True),
            make_latency("onnxruntime-cuda-sessions", "fp32", 8, 0.1, True),
            make_latency("tensorrt", "int8", 1, 0.25, True),
            {
                "kind": "latency",
                **at,
                "precision": "int8",
                "batch": 1,
                "end_to_end_ms": {"p50": 0.4},
                "before": None,
                "after": None,
            },
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
    assert "- versions: Python 3.12.1, onnxruntime 1.30 and 1.31\n" in text
    assert "| tensorrt | works | 11.4 | – |" in text
    assert "| torch.compile | FP16 channels_last | yes | – | 0.900 |" in text
    assert "| TensorRT, deploykit's backend | INT8 | yes | 0.250 | – |" in text
    assert "| resnet50 | TensorRT, deploykit's backend | INT8 | 0.400 |" in text
    assert "| resnet50 | tensorrt | int8 | 31.2 | 27.5 | 98.5% INT8, 1.5% FP32 |" in text
    assert "| tensorrt resnet50 fp16 | building the fp16 engine | RuntimeError: no |" in text
    assert "| tensorrt resnet50 int8 8 | parity | SNR 9.0 dB \\| below 10 |" in text
    assert "| resnet50 | tensorrt | 1755 to 1980 | x |" in text


def test_the_page_shows_the_worst_parity_of_all_batch_sizes():
    text = table.render_report(make_report())
    cells = "INT8 | FAILED | 1, 8 | 3.0e-01 | 9.0 | 50% | 16 |"
    assert f"| resnet50 | TensorRT, deploykit's backend | {cells}" in text


def test_the_page_compares_the_fastest_of_either_side_at_fp16():
    [*_, line] = table.list_ratios(make_report()["rows"])
    assert line == (
        "| resnet50 | 8 | 2.000 | 0.900 | torch.compile, FP16 channels_last, CUDA graph "
        "| 0.600 | ONNX Runtime CUDA, plain sessions, FP16 nhwc, CUDA graph | 3.33 | 1.50 |"
    )


def test_the_page_states_whether_tensorrt_rtx_runs_on_this_machine():
    text = table.render_report(make_report())
    assert "- tensorrt-rtx: engine validity / run result: SUBOPTIMAL (4) / fails: died by SIGSEGV" in text


def test_sections_without_rows_are_omitted():
    report = make_report() | {"rows": []}
    text = table.render_report(report)
    assert "##" not in text
    assert "Nothing was run on a GPU yet." in text


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
    from deploykit.backends.gpu.driver import query_driver

    if query_driver().gpu is not None:
        pytest.skip("this machine has a GPU")
    words = ["--networks", "nin_cifar10", "--variants", "tensorrt", "onnxruntime-cpu", "--seconds", "600"]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "gpu_check", *words, "-o", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith("No GPU: ")
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    measured = [(row["precision"], row["batch"]) for row in rows if row["kind"] == "latency"]
    assert measured == [(precision, batch) for precision in ("fp16", "int8", "fp32") for batch in (1, 8, 32)]
    assert {row["step"] for row in rows if row["kind"] == "latency"} == {"onnxruntime-cpu"}


def test_signals_have_names():
    assert steps.describe_exit(-signal.SIGSEGV, Path("unread"), 1) == "died by SIGSEGV"


class Convolution:
    """A TensorRT double in one object, which reads and writes tensors at the bound addresses."""

    def __init__(self, factor):
        self.factor, self.addresses, self.plans = factor, {}, []

        self.batch = 1

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


@pytest.fixture
def runner(monkeypatch, tmp_path):
    """Runs a plan of a convolution in the host's memory."""
    from deploykit.core.values import TensorSpec

    gpu_doubles.install(monkeypatch)
    (tmp_path / "engine.plan").write_bytes(b"plan")
    stand_in = Convolution(1.0)
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda *_: None})
    library = SimpleNamespace(Logger=logger, Runtime=lambda _: stand_in)
    specs = (TensorSpec(name, "float32", ("batch", size, 16, 16), "NCHW") for name, size in (("x", 3), ("y", 4)))
    return plan_runner.PlanRunner(library, tmp_path / "engine.plan", *((spec,) for spec in specs), device="cpu")


def test_a_plan_runs_with_pytorchs_memory(runner):
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


def test_a_batch_that_the_plan_rejects_raises(runner):
    with pytest.raises(RuntimeError, match="the engine rejects x with shape"):
        runner.run({"x": np.zeros((9, 3, 16, 16), np.float32)})


def test_a_plan_is_timed_kernel_by_kernel_and_as_a_cuda_graph(runner):
    runner.run({"x": np.zeros((8, 3, 16, 16), np.float32)})
    assert [row["cuda_graph"] for row in plan_check.time_launches(runner)] == [False, True]


def test_without_a_driver_a_plan_is_not_deserialized(report, monkeypatch, tmp_path):
    monkeypatch.setattr(plan_check, "find_gpu", lambda: (None, "no NVIDIA driver is installed"))
    monkeypatch.setattr(plan_check, "PlanRunner", lambda *_: pytest.fail("deserialized"))
    plan_check.check_plans(report, "tensorrt-rtx", tmp_path)
    [row] = report.read_rows("check")
    assert (row["state"], row["why"]) == ("not run", "no NVIDIA driver is installed")


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
    variables = stages.prepare_workspace(stages.STAGES["three"], [packed], tmp_path / "workspace")
    assert variables["PYTHONPATH"].split(os.pathsep)[:2] == [
        *(str(tmp_path / "workspace" / name) for name in ("tensorrt_rtx", "site")),
    ]
    assert (tmp_path / "workspace/tensorrt_rtx/library.py").stat().st_size == 3 * pack.MIB
    assert (tmp_path / "workspace/site/small.py").exists()


def test_parts_may_be_brought_one_after_the_other(packed, tmp_path):
    work = tmp_path / "workspace"
    stages.prepare_workspace(stages.STAGES["one"], [packed / "1"], work)
    with pytest.raises(stages.StageError, match="pieces of tensorrt_rtx are missing or damaged"):
        stages.prepare_workspace(stages.STAGES["three"], [packed / "1"], work)
    stages.prepare_workspace(stages.STAGES["three"], [packed / "2"], work)
    assert (work / "tensorrt_rtx/library.py").exists()
    stages.prepare_workspace(stages.STAGES["three"], [], work)  # nothing needs to be brought again


def test_parts_may_lie_in_several_folders(packed, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(packed / "1", first / "1")
    shutil.copytree(packed / "2", second)
    stages.prepare_workspace(stages.STAGES["three"], [first, second], tmp_path / "workspace")
    assert (tmp_path / "workspace/tensorrt_rtx/library.py").exists()


def test_a_library_that_runs_is_not_unpacked_again(packed, tmp_path):
    work = tmp_path / "workspace"
    stages.prepare_workspace(stages.STAGES["one"], [packed], work)
    before = (work / "site/small.py").stat().st_mtime_ns
    stages.prepare_workspace(stages.STAGES["one"], [packed], work)
    assert (work / "site/small.py").stat().st_mtime_ns == before


def test_nothing_computes_in_tf32(packed, tmp_path):
    variables = stages.prepare_workspace(stages.STAGES["one"], [packed], tmp_path / "workspace")
    assert variables["NVIDIA_TF32_OVERRIDE"] == "0"


def test_a_folder_without_part_1_is_refused(tmp_path):
    with pytest.raises(stages.StageError, match="it must hold part 1"):
        stages.prepare_workspace(stages.STAGES["one"], [tmp_path], tmp_path / "workspace")


class StartedSteps:
    """In place of processes: what was started, got its turn, and was ended, in order; the answers by step name."""

    def __init__(self, monkeypatch, clock):
        self.log, self.clock, self.states, self.costs = [], clock, {}, {}
        monkeypatch.setattr(stages, "start_background_steps", lambda networks, _: [Step("graphs", networks[0])])
        monkeypatch.setattr(stages, "start_int8_graph", lambda *_: None)
        monkeypatch.setattr(stages, "start_step", self.start)
        monkeypatch.setattr(stages, "finish_step", self.finish)
        monkeypatch.setattr(stages, "end_step", lambda step: self.log.append(f"end {step}"))

    def start(self, step, *_):
        if step.waits:
            self.log.append(f"start {step}")
        return step

    def finish(self, step, _seconds):
        self.log.append(str(step))
        self.clock.now += self.costs.get(step.name, 1)
        if step.network is None and step.is_variant:
            return [{"kind": "variant", **step.stamp, "state": self.states.get(step.name, "works"), "why": None}]
        return [{"kind": "note", **step.stamp, "text": ""}]


@pytest.fixture
def started(monkeypatch, clock):
    return StartedSteps(monkeypatch, clock)


@pytest.fixture
def run_stage(packed, tmp_path, clock, monkeypatch):
    """Run a stage without processes on two networks; its rows."""
    monkeypatch.setattr(stages, "unpack_archive", lambda *_: tmp_path)

    def run(name, seconds=1000, networks=("resnet50", "vgg16")):
        budget, work = steps.Budget(seconds, clock), tmp_path / "workspace"
        return stages.run_stage(name, networks, [packed], work, budget, lambda _: None)

    return run


def test_a_stage_begins_with_what_tells_most_and_goes_network_by_network(started, run_stage):
    run_stage("two")
    assert [line for line in started.log if not line.startswith("start ")] == [
        *("machine", "torch-eager", "onnxruntime-cuda"),
        *("onnxruntime-cuda resnet50", "onnxruntime-cuda-sessions resnet50", "torch-eager resnet50"),
        *("onnxruntime-cuda vgg16", "torch-eager vgg16"),
        *("torch-compile", "torch-compile resnet50", "torch-reduce-overhead resnet50", "torch-compile vgg16"),
        *("sessions-torch-first resnet50", "sessions-without-torch resnet50"),
        *("onnxruntime-cuda-sessions vgg16", "torch-reduce-overhead vgg16"),
    ]


def test_a_step_gets_ready_while_the_one_before_it_measures(started, run_stage):
    run_stage("one")
    assert started.log[-4:] == [
        *("start torch-eager resnet50", "start torch-eager vgg16", "torch-eager resnet50", "torch-eager vgg16"),
    ]


def test_every_step_of_a_stage_ends_with_a_row(started, run_stage):
    """Also those whose variant does not work here."""
    started.states = {"onnxruntime-cuda": "fails", "torch-compile": "fails", "torch-eager": "fails"}
    rows = run_stage("two", networks=("vgg16",))
    planned = [step for step, _ in stages.list_steps(stages.STAGES["two"], ("vgg16",))]
    in_background = Step("graphs", "vgg16")
    assert {(row["step"], row.get("network")) for row in rows} == {*planned, in_background}
    assert {row["step"] for row in rows if row["kind"] == "skipped"} == {
        *("onnxruntime-cuda", "onnxruntime-cuda-sessions", "torch-eager", "torch-compile", "torch-reduce-overhead"),
        *("sessions-torch-first", "sessions-without-torch"),
        "graphs",  # not begun: there are no processes here
    }


def test_a_step_that_got_ready_and_gets_no_time_is_ended(started, run_stage):
    started.costs = {"onnxruntime-cuda": 400}
    rows = run_stage("two", seconds=420, networks=("vgg16",))
    assert "end onnxruntime-cuda-sessions vgg16" in started.log or "onnxruntime-cuda-sessions vgg16" not in started.log
    why = {row["why"] for row in rows if row["kind"] == "skipped" and row["step"] == "torch-eager"}
    assert why == {"0 s were left of 420"}


def test_what_an_earlier_stage_did_is_not_repeated(started, run_stage):
    run_stage("one")
    started.log.clear()
    rows = run_stage("two")
    assert not [line for line in started.log if "torch-eager" in line]
    assert started.log[0] == "machine"
    assert len([row for row in rows if row["step"] == "torch-eager"]) == 3


def test_only_the_first_network_runs_in_tensorrt_rtx(started, run_stage):
    run_stage("three")
    assert [line for line in started.log if line.startswith("tensorrt")] == [
        *("tensorrt-rtx", "tensorrt-rtx-current", "tensorrt-rtx resnet50", "tensorrt-rtx-plans resnet50"),
    ]


# ── In the background ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begin a step in the background whose process runs this program in place of gpu_check."""

    def start(program, seconds=20.0):
        scripts = tmp_path / "scripts"
        scripts.mkdir()
        (scripts / "gpu_check").write_text(f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\n{program}")
        monkeypatch.setattr(steps, "PROGRAM", scripts / "gpu_check")
        step = Step("graphs", "vgg16")
        background.start_in_background(step, seconds, tmp_path, tmp_path, {}, niceness=0)
        return step

    yield start
    background.end_background([Step("graphs", "vgg16")], tmp_path)


ENDING = """
import time
from pathlib import Path
from gpu.journal import Journal
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
journal = Journal(Path(words["--answer"]), words["--step"], words["--network"], 20)
journal.add_row("note", text="did it")
time.sleep({seconds})
journal.end()
"""


def wait_until(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("waited for ten seconds")


def test_a_step_in_the_background_is_read_when_it_has_ended(begin, tmp_path):
    step = begin(ENDING.format(seconds=0.2))
    background.wait_for([step], tmp_path, 20)
    assert [row["text"] for row in background.read_background_rows(step, tmp_path, tmp_path)] == ["did it"]
    assert background.has_ended(step, tmp_path)


def test_a_step_that_still_runs_says_so_and_is_not_begun_twice(begin, tmp_path):
    step = begin(ENDING.format(seconds=30))
    wait_until(lambda: (tmp_path / "graphs-vgg16.json").is_file())
    [*_, row] = background.read_background_rows(step, tmp_path, tmp_path)
    assert (row["kind"], row["text"]) == ("note", "goes on in the background; a later stage reads it")
    pid = background.read_pid(step, tmp_path)
    background.start_in_background(step, 20, tmp_path, tmp_path, {}, niceness=0)
    assert background.read_pid(step, tmp_path) == pid


def test_a_step_that_dies_in_the_background_is_a_failure(begin, tmp_path):
    step = begin("raise RuntimeError('first\\nlast')")
    background.wait_for([step], tmp_path, 20)
    [row] = background.read_background_rows(step, tmp_path, tmp_path)
    assert (row["kind"], row["why"]) == ("failure", "ended early: last")


def test_a_step_in_the_background_is_stopped_while_another_measures(begin, tmp_path):
    step = begin(ENDING.format(seconds=30))
    pid = background.read_pid(step, tmp_path)

    def read_state():
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]

    with background.stopped([step], tmp_path):
        wait_until(lambda: read_state() == "T")
    wait_until(lambda: read_state() != "T")


def make_note(text, step="a-step"):
    return {"kind": "note", "step": step, "network": "vgg16", "text": text}


@pytest.mark.usefixtures("started")
def test_a_later_stages_report_has_the_earlier_rows(run_stage):
    one = run_stage("one")
    three = run_stage("three")
    assert [row for row in one if row["step"] != "machine" and row not in three] == []


def test_a_stage_that_is_run_again_goes_on_where_it_ended(started, run_stage):
    started.costs = {"torch-eager": 400}
    run_stage("one", seconds=420)
    started.log.clear()
    run_stage("one")
    assert [line for line in started.log if not line.startswith("start ")] == [
        *("machine", "torch-eager vgg16"),
    ]


def test_what_failed_is_tried_again():
    at = {"step": "tests", "network": None}
    passed, failed = ({"kind": "check", **at, "state": state} for state in ("passed", "failed"))
    assert stages.find_done([passed]) == {Step("tests")}
    assert stages.find_done([passed, failed]) == set()


def test_a_step_that_was_done_again_has_the_last_rows_alone():
    skipped = {"kind": "skipped", "step": "a-step", "network": "vgg16", "why": "no time"}
    assert stages.merge_rows([[skipped], [make_note("done")]]) == [make_note("done")]
    assert stages.merge_rows([[make_note("done")], [skipped]]) == [make_note("done"), skipped]
    assert stages.merge_rows([[skipped], [skipped]]) == [skipped]


def test_the_machines_rows_of_all_stages_stay():
    machines = [{"kind": "machine", "step": "machine", "python": version} for version in ("3.11", "3.12")]
    assert stages.merge_rows([[row] for row in machines]) == machines


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
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "tests/backends"))
    importlib.import_module("cuda_doubles").install(monkeypatch)
    memory = importlib.import_module("deploykit.backends.gpu.memory")

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
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "tests/backends"))
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
