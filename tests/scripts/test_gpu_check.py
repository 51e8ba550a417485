"""scripts/gpu_check where there is no GPU: what it plans, what it makes of steps that fail, and what it reports."""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load():
    """The program as a module; it puts the folder that `gpu` is in before all others, which no test needs."""
    paths = list(sys.path)
    loader = SourceFileLoader("gpu_check", str(SCRIPTS / "gpu_check"))
    module = module_from_spec(spec_from_loader("gpu_check", loader))
    loader.exec_module(module)
    parts = [
        importlib.import_module(f"gpu.{name}") for name in ("journal", "machine", "plans", "probe", "roads", "table")
    ]
    sys.path[:] = paths
    return module, *parts


gpu_check, journal, machine, plans, probe, roads, table = load()
Job = gpu_check.Job


# ── Planning ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_road_is_tried_before_any_network_and_the_processor_comes_last():
    jobs = gpu_check.plan(gpu_check.ALL, ["resnet50", "vgg16"])
    assert jobs[0] == Job("machine")
    assert [job.road for job in jobs[1:9]] == list(gpu_check.ALL)
    of_resnet = [job.road for job in jobs if job.network == "resnet50"]
    assert of_resnet == ["graphs", *gpu_check.ON_GPU, *gpu_check.ON_CPU]
    assert [job.network for job in jobs[-4:]] == ["resnet50", "resnet50", "vgg16", "vgg16"]


def test_only_the_roads_that_are_asked_for_are_planned_in_the_usual_order():
    jobs = gpu_check.plan(["torch-eager", "tensorrt"], ["vgg16"])
    assert [str(job) for job in jobs] == [
        *("machine", "tensorrt", "torch-eager", "graphs vgg16", "tensorrt vgg16", "torch-eager vgg16"),
    ]


def test_every_planned_road_has_a_probe_and_what_it_measures():
    assert set(probe.PROBES) == set(gpu_check.ALL)
    assert set(roads.ROADS) == set(gpu_check.ALL) - set(gpu_check.PROBED_ONLY)


def worked(road):
    return {"kind": "road", "road": road, "state": "works", "why": None}


def test_a_network_is_only_brought_to_roads_that_work():
    rows = [worked("torch-eager"), {"kind": "road", "road": "tensorrt", "state": "fails", "why": "no"}]
    assert gpu_check.wanted(Job("torch-eager", "vgg16"), rows)
    assert gpu_check.wanted(Job("graphs", "vgg16"), rows)
    assert not gpu_check.wanted(Job("tensorrt", "vgg16"), rows)
    assert not gpu_check.wanted(Job("tensorrt-rtx", "vgg16"), rows)


def test_graphs_are_not_made_for_nobody():
    assert not gpu_check.wanted(Job("graphs", "vgg16"), [worked("tensorrt-rtx-current")])


# ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_step_gets_half_of_what_is_left_and_a_minute_at_least(clock):
    budget = gpu_check.Budget(485, clock)
    assert (budget.left, budget.share()) == (480, 240)
    clock.now += 390
    assert (budget.left, budget.share()) == (90, 60)
    clock.now += 60
    assert (budget.left, budget.share()) == (30, 30)
    clock.now += 100
    assert (budget.left, budget.share()) == (0, 0)


def test_what_no_time_is_left_for_is_named_and_not_begun(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "spawn", lambda *_: pytest.fail("begun"))
    budget = gpu_check.Budget(100, clock)
    clock.now += 90
    why = "5 s were left of 100"
    [row] = gpu_check.done(Job("tensorrt", "vgg16"), [worked("tensorrt")], budget, tmp_path, tmp_path)
    assert row == {"kind": "left_out", "road": "tensorrt", "network": "vgg16", "why": why}
    [row] = gpu_check.done(Job("tensorrt"), [], budget, tmp_path, tmp_path)
    assert (row["kind"], row["state"], row["why"]) == ("road", "not tried", why)
    assert table.left_out([{"kind": "left_out", "road": "tensorrt", "network": "vgg16", "why": why}]) == [
        "- tensorrt vgg16: 5 s were left of 100"
    ]


def test_a_road_that_does_not_work_is_not_said_to_be_left_out(clock, tmp_path):
    budget = gpu_check.Budget(0, clock)
    assert gpu_check.done(Job("tensorrt", "vgg16"), [], budget, tmp_path, tmp_path) == []


# ── Steps that end badly ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def spawned(tmp_path, monkeypatch):
    """Rows of a step whose process runs this program in the place of gpu_check."""

    def run(program, job, seconds=20.0):
        scripts = tmp_path / "scripts"
        scripts.mkdir()
        (scripts / "gpu_check").write_text(f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\n{program}")
        monkeypatch.setattr(gpu_check, "SCRIPTS", scripts)
        return gpu_check.spawn(job, seconds, tmp_path, tmp_path)

    return run


DYING = """
import os, signal
from pathlib import Path
from gpu.journal import Journal
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
journal = Journal(Path(words["--answer"]), words["--road"], words.get("--network"), 20)
journal.row("engine", precision="fp32", seconds=1.0, mib=2.0)
with journal.doing("deserializing"):
    os.kill(os.getpid(), signal.{signal})
"""


def test_a_probe_that_dies_by_a_signal_is_a_road_that_fails(spawned):
    rows = spawned(DYING.format(signal="SIGSEGV"), Job("tensorrt-rtx"))
    assert [row["kind"] for row in rows] == ["engine", "road"]
    assert (rows[1]["state"], rows[1]["why"]) == ("fails", "died by SIGSEGV while deserializing")


def test_what_a_network_told_before_it_died_is_kept(spawned):
    rows = spawned(DYING.format(signal="SIGABRT"), Job("tensorrt", "vgg16"))
    assert (rows[0]["kind"], rows[0]["network"], rows[0]["mib"]) == ("engine", "vgg16", 2.0)
    said = {"road": "tensorrt", "network": "vgg16", "doing": "deserializing", "why": "died by SIGABRT"}
    assert rows[1] == {"kind": "failure", **said}


def test_a_step_that_hangs_is_ended_with_what_it_started(spawned, tmp_path):
    program = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    start = time.monotonic()
    [row] = spawned(program, Job("torch-compile"), seconds=1.5)
    assert time.monotonic() - start < 20
    assert (row["state"], row["why"]) == ("fails", "not done after 2 s, and ended")
    for _ in range(100):  # killed; whoever reaps orphans may need a moment
        stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
        if not stat.exists() or stat.read_text().rsplit(")")[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what it started still runs")


def test_a_step_that_raises_is_told_by_its_last_line(spawned):
    [row] = spawned("raise RuntimeError('first\\nlast')", Job("graphs", "vgg16"))
    assert (row["kind"], row["doing"], row["why"]) == ("failure", None, "last")


def test_a_failure_within_a_step_is_a_row_that_names_the_innermost_doing(tmp_path):
    told = journal.Journal(tmp_path / "answer.json", "tensorrt", "vgg16", 10)

    def build():
        with told.doing("building the int8 engine"):
            raise ValueError("no tactic\nfor node conv1\n")

    assert not told.trying("preparing int8", build, precision="int8")
    assert told.trying("comparing", lambda: None)
    document = json.loads((tmp_path / "answer.json").read_text())
    assert document["doing"] is None
    [row] = document["rows"]
    assert (row["doing"], row["precision"]) == ("building the int8 engine", "int8")
    assert row["why"] == "ValueError: for node conv1"


# ── Probes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def probed(tmp_path, road):
    probe.probe(journal.Journal(tmp_path / "answer.json", road, None, 60), road)
    return json.loads((tmp_path / "answer.json").read_text())["rows"]


def test_a_missing_library_is_a_road_that_fails_and_nothing_is_made_up(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    [row] = probed(tmp_path, "tensorrt")
    assert (row["kind"], row["state"], row["seen"]) == ("road", "fails", {})
    assert "tensorrt" in row["why"]


def test_a_builder_that_needs_a_driver_is_not_called_without_one(tmp_path, monkeypatch):
    library = ModuleType("tensorrt")
    library.__version__, library.Builder = "11.4.0", lambda _: pytest.fail("called")
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(probe, "gpu_or_absence", lambda: (None, "no NVIDIA driver is installed"))
    [row] = probed(tmp_path, "tensorrt")
    assert (row["state"], row["why"]) == ("fails", "no NVIDIA driver is installed")
    assert row["seen"] == {"version": "11.4.0"}


def test_tensorrt_rtx_without_a_driver_builds_and_is_not_asked_to_deserialize(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(probe, "gpu_or_absence", lambda: (None, "no NVIDIA driver is installed"))
    [row] = probed(tmp_path, "tensorrt-rtx")
    assert row["state"] == "fails"
    assert row["why"].startswith("built an engine of ")
    assert row["why"].endswith("cannot run it: no NVIDIA driver is installed")
    assert row["seen"]["plan_bytes"] > 0


def test_onnxruntime_runs_on_the_processor(tmp_path):
    [row] = probed(tmp_path, "onnxruntime-cpu")
    assert (row["state"], row["why"]) == ("works", None)


# ── Measuring ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Doubled:
    """A runner that doubles, in 2 ms."""

    class Spec:
        name, dtype = "input", "float32"

    inputs = outputs = (Spec,)

    def run(self, arrays):
        time.sleep(0.002)
        return {"input": 2 * arrays["input"]}

    def timed(self, arrays):
        class Timings:
            h2d_ms, compute_ms, d2h_ms, enqueue_ms = 0.1, 0.5, 0.2, 0.05

        return self.run(arrays), Timings


def test_both_latencies_are_measured_and_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(roads, "WARM_UP_S", 0.01)
    monkeypatch.setattr(roads, "MEASURE_S", 0.05)
    np.save(tmp_path / "inputs.npy", np.ones((3, 3, 4, 4), np.float32))
    told = journal.Journal(tmp_path / "answer.json", "tensorrt", "vgg16", 60)
    runner = Doubled()
    timed = roads.Candidate("fp16", "fp16", runner, ("said",), partial(roads._timed, runner))
    plain = roads.Candidate("fp32", "fp32", runner, (), None)
    roads.latency(told, [plain, timed], 8, tmp_path)
    first, second = json.loads((tmp_path / "answer.json").read_text())["rows"]
    assert "excluded_ms" not in first
    assert (second["excluded_ms"]["p50"], second["parts_p50_ms"]["h2d"]) == (0.5, 0.1)
    assert second["included_ms"]["p50"] >= 2
    assert first["rounds"] >= roads.ROUNDS_AT_LEAST
    assert (second["batch"], second["statements"], second["beside_first"]["to"]) == (8, ["said"], "fp32")


def test_sensors_that_are_not_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.sensors() is None


def test_sensors_are_read_from_nvidia_smi_where_its_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\n[ "$2" = GPU-1234 ] && echo "1980, 3201, 41, 118.52, 0x0000000000000004"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1234,GPU-5678")
    found = machine.sensors()
    assert (found["clocks.sm"], found["power.draw"], found["source"]) == (1980, 118.52, "nvidia-smi")
    assert found["clocks_event_reasons.active"] == "0x0000000000000004"


# ── The report ──────────────────────────────────────────────────────────────────────────────────────────────────────


def recorded():
    """A document as a GPU machine might leave it; its figures are the test's own."""
    gpu = {"name": "NVIDIA Test", "compute_capability": 90, "driver": "580.1", "memory_bytes": 2**37}
    at = {"road": "tensorrt", "network": "resnet50"}
    warm, hot = {"clocks.sm": 1980.0, "source": "x"}, {"clocks.sm": 1755.0, "source": "x"}
    latency = {"kind": "latency", **at, "rounds": 300, "before": warm, "after": hot, "statements": []}
    return {
        "gpu_check": 1,
        "date": "2026-01-02T03:04:05+00:00",
        "seconds": 90.0,
        "budget_s": 480.0,
        "rows": [
            {"kind": "machine", "road": "machine", "gpu": gpu, "absence": None, "libraries": {"tensorrt": "11.4"}}
            | {"python": "3.12.1", "system": "Linux", "cores": 16, "processor": "Some CPU", "why": []},
            worked("tensorrt") | {"seen": {"version": "11.4"}},
            {"kind": "seen", "road": "tensorrt-rtx", "validity": "SUBOPTIMAL", "diagnostics": "4"},
            {"kind": "road", "road": "tensorrt-rtx", "state": "fails", "why": "died by SIGSEGV", "seen": {}},
            {
                "kind": "graph",
                "road": "graphs",
                "network": "resnet50",
                "precision": "int8",
                "seconds": 9.0,
                "mib": 25.0,
            },
            {"kind": "engine", **at, "precision": "int8", "seconds": 31.25, "mib": 27.5, "settings": []},
            {"kind": "receipt", **at, "precision": "int8", "shares": {"int8": 0.985, "fp32": 0.015}},
            {"kind": "parity", **at, "precision": "int8", "passed": False, "failures": ["SNR 9.0 dB | below 10"]}
            | {"max_relative": 0.3, "cosine": 0.9, "snr_db": 9.0, "top1_agreement": 0.5},
            {**latency, "precision": "int8", "batch": 1, "included_ms": {"p50": 0.4}, "excluded_ms": {"p50": 0.25}}
            | {"beside_first": {"to": "fp32", "ratio": 0.5, "low": 0.4, "high": 0.6}},
            {
                "kind": "failure",
                **at,
                "precision": "fp16",
                "doing": "building the fp16 engine",
                "why": "RuntimeError: no",
            },
        ],
    }


def test_the_table_holds_every_figure_of_the_document():
    text = table.render(recorded())
    assert "- GPU: NVIDIA Test, SM 9.0, 128.0 GiB, driver 580.1" in text
    assert "| tensorrt | works | 11.4 | – |" in text
    assert (
        "| resnet50 | tensorrt | int8 | 31.2 | 27.5 | 98.5% | FAILED | 3.0e-01 | 9.0 | 50% "
        "| 0.400 | 0.250 | – | – | 0.500 (0.400 to 0.600) |"
    ) in text
    assert "| tensorrt resnet50 fp16 | building the fp16 engine | RuntimeError: no |" in text
    assert "| tensorrt resnet50 int8 | parity | SNR 9.0 dB \\| below 10 |" in text
    assert "| resnet50 | tensorrt | 1 | 1980.0 → 1755.0 | x → x |" in text


def test_whether_tensorrt_rtx_runs_here_is_answered_in_so_many_words():
    text = table.render(recorded())
    assert "- tensorrt-rtx: engine validity / run result: SUBOPTIMAL (4) / fails: died by SIGSEGV" in text


def test_nothing_is_said_of_what_was_not_tried():
    report = recorded() | {"rows": []}
    text = table.render(report)
    assert "##" not in text
    assert "- GPU: none: not asked" in text


def test_the_verdict_names_a_missing_gpu_and_exits_with_4():
    rows = [{"kind": "machine", "gpu": None, "absence": "no NVIDIA driver is installed"}, worked("onnxruntime-cpu")]
    code, sentence = gpu_check.verdict(rows)
    assert code == 4
    assert sentence.startswith("No GPU: no NVIDIA driver is installed; ")


def test_a_gpu_that_no_road_leads_to_exits_with_4():
    assert gpu_check.verdict([{"kind": "machine", "gpu": {"name": "NVIDIA Test"}}])[0] == 4


def test_a_parity_that_did_not_hold_exits_with_1_and_all_good_with_0():
    rows = recorded()["rows"]
    assert gpu_check.verdict(rows)[0] == 1
    assert gpu_check.verdict([row for row in rows if row["kind"] != "parity"]) == (0, "Working: tensorrt.")


def test_a_python_without_packages_gets_a_report_too(tmp_path):
    for name in ("msgspec", "torch", "tensorrt"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')")
    words = [sys.executable, SCRIPTS / "gpu_check", "--roads", "tensorrt", "torch-eager", "-o", tmp_path / "out"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 4, answer.stderr
    document = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert document["gpu_check"] == gpu_check.VERSION
    assert [row["kind"] for row in document["rows"]] == ["machine", "road", "road"]
    assert [row["state"] for row in document["rows"][1:]] == ["fails", "fails"]
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "deploykit cannot be imported: ModuleNotFoundError: No module named" in text
    assert "| torch-eager | fails | – | ModuleNotFoundError: No module named torch |" in text


@pytest.mark.slow
def test_a_machine_without_a_gpu_gets_the_processors_rows_and_exit_code_4(tmp_path):
    from deploykit.backends.tensorrt.driver import driver

    if driver().gpu is not None:
        pytest.skip("this machine has a GPU")
    words = ["--networks", "nin_cifar10", "--roads", "tensorrt", "onnxruntime-cpu", "--seconds", "300"]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "gpu_check", *words, "-o", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith("No GPU: ")
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    measured = [(row["precision"], row["batch"]) for row in rows if row["kind"] == "latency"]
    assert measured == [(precision, batch) for batch in (1, 8) for precision in ("fp32", "fp16", "int8")]
    assert {row["road"] for row in rows if row["kind"] == "latency"} == {"onnxruntime-cpu"}


def test_signals_have_names():
    assert gpu_check.ending(-signal.SIGSEGV, Path("unread"), 1) == "died by SIGSEGV"


class Convolution:
    """Stands for a TensorRT of which every part is one object; tensors are read and written where it is told."""

    def __init__(self, factor):
        self.factor, self.addresses, self.asked = factor, {}, []

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
        self.asked.append(plan)
        return SimpleNamespace(name="VALID"), 0

    def deserialize_cuda_engine(self, plan):
        self.asked.append(plan)
        return self

    def create_execution_context(self):
        return self

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        kernel, bias = probe._weights()
        x, y = (self.at(name, (self.batch, channels, 256)) for name, channels in (("x", 3), ("y", 4)))
        y[:] = self.factor * (kernel[:, :, 0, 0] @ x + bias[:, None])
        return stream == 7

    def at(self, name, shape):
        size = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name])).reshape(shape)


@pytest.fixture
def on_stand_in(tmp_path, monkeypatch):
    """The rows of the TensorRT-RTX probe where a GPU is pretended, and its memory is the host's."""

    def run(factor):
        import torch

        library, stand_in = ModuleType("tensorrt_rtx"), Convolution(factor)
        library.__version__, library.Builder, library.Runtime = "1.7", object, lambda _: stand_in
        stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
        monkeypatch.setattr(probe, "gpu_or_absence", lambda: ({"name": "NVIDIA Test"}, None))
        monkeypatch.setattr(probe, "_logger", lambda *_: None)
        monkeypatch.setattr(probe, "_plan", lambda *_, **__: b"plan")
        monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda shape, **_: empty(shape))
        rows = probed(tmp_path, "tensorrt-rtx")
        assert stand_in.asked == [b"plan", b"plan"]
        return rows

    return run


def test_an_engine_that_runs_and_is_right_is_a_road_that_works(on_stand_in):
    seen, road = on_stand_in(1.0)
    assert (seen["kind"], seen["validity"], seen["diagnostics"]) == ("seen", "VALID", "0")
    assert (road["state"], road["seen"]["plan_bytes"]) == ("works", 4)
    assert road["seen"]["error"] < 1e-5


def test_an_engine_that_runs_and_is_wrong_is_not(on_stand_in):
    _, road = on_stand_in(1.1)
    assert (road["state"], road["why"]) == ("fails", "ran, and its answer is wrong by 1.0e-01 of full scale")


class Event:
    """A mark in time, for want of a GPU's."""

    def __init__(self, **_):
        self.time = None

    def record(self):
        self.time = time.perf_counter()

    def elapsed_time(self, other):
        return 1e3 * (other.time - self.time)


@pytest.fixture
def plan_runner(monkeypatch, tmp_path):
    """A plan that convolves, run where there is no pycuda; the host's memory stands for the GPU's."""
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
    return plans.PlanRunner(library, tmp_path / "engine.plan", *((spec,) for spec in specs), device="cpu")


def test_without_pycuda_a_plan_is_run_with_pytorchs_memory(plan_runner):
    kernel, bias = probe._weights()
    kept = {}
    for batch in (1, 8, 1):
        pixels = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16), np.float32)
        answer, timings = plan_runner.timed({"x": pixels})
        expected = np.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], pixels) + bias[:, None, None]
        np.testing.assert_allclose(answer["y"], expected, atol=1e-5)
        assert min(timings) >= 0
        kept.setdefault(batch, answer["y"])
    np.testing.assert_array_equal(kept[1], answer["y"])  # the buffers were used again meanwhile
    assert plan_runner.inspected() == "layers"


def test_a_batch_that_the_plan_refuses_is_said(plan_runner):
    with pytest.raises(RuntimeError, match="the engine refuses x of"):
        plan_runner.run({"x": np.zeros((9, 3, 16, 16), np.float32)})


def test_a_plan_is_not_deserialized_where_there_is_no_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(roads.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(roads, "gpu_or_absence", lambda: (None, "no NVIDIA driver is installed"))
    monkeypatch.setattr(roads, "PlanRunner", lambda *_: pytest.fail("deserialized"))
    with pytest.raises(RuntimeError, match="no NVIDIA driver is installed"):
        roads._loaded("tensorrt-rtx", None, None, tmp_path)
