"""A network in one variant: engines built, outputs compared with eager PyTorch in FP32, latency measured.

    end to end   from host memory to host memory, by the host's clock
    on device    on data that is already on the device: by CUDA events; for ONNX Runtime by the host's clock, around a
                 call and its synchronization

The precisions of a variant run in turn, call by call, after one second of warm-up; variants run one after the other,
each in its own process.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gpu.graphs import PRECISIONS, link_graph, make_request
from gpu.journal import Journal, Row
from gpu.machine import find_gpu, read_sensors
from gpu.plan_runner import CAVEAT, PlanRunner

if TYPE_CHECKING:
    from deploykit.core.values import Engine, Runner, TensorSpec

BATCHES: Final = (1, 8)

WARM_UP_S: Final = 1.0
MEASURE_S: Final = 4.0
ROUNDS_AT_LEAST: Final = 10
ROUNDS_AT_MOST: Final = 300

Timing = dict[str, float]
"""Milliseconds of one call by part: compute, and h2d, d2h and enqueue where they are known."""


class Candidate(NamedTuple):
    """A variant at one precision, ready to run."""

    name: str
    precision: Any
    runner: Runner
    caveats: tuple[str, ...]
    on_device: Callable[[Any], Callable[[], Timing]] | None
    """Given an input, a call on it without transfers; None where there are no transfers."""


def measure_variant(journal: Journal, variant: str, network: str, folder: Path) -> None:
    """Every precision that works; each that does not becomes a row."""
    candidates: list[Candidate] = []
    for name, prepare in VARIANTS[variant](journal, variant, network, folder):
        if journal.remaining_s() < 10:
            journal.add_row("skipped", precision=name, why="no time was left")
            continue
        journal.attempt(f"preparing {name}", partial(_prepare, prepare, candidates), precision=name)
    working = [
        candidate
        for candidate in candidates
        if journal.attempt("comparing", partial(evaluate_parity, journal, candidate, folder), precision=candidate.name)
    ]
    for batch in BATCHES:
        if working and journal.remaining_s() > 5:
            measure = partial(measure_latency, journal, working, batch, folder)
            journal.attempt(f"measuring at batch {batch}", measure, batch=batch)
        elif working:
            journal.add_row("skipped", batch=batch, why="no time was left")


def _prepare(prepare: Callable[[], Candidate], candidates: list[Candidate]) -> None:
    candidates.append(prepare())


LEAST_DB: Final[Mapping[str, float]] = {"fp32": 80, "fp16": 40, "bf16": 22, "int8": 10, "int8-fp16": 10}
"""Smallest SNR in dB by precision: an error of a hundredth of the signal at FP16, of a third at INT8. Beyond that an
engine of the network that is measured here is broken, not rounded."""

# ── Parity ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluate_parity(journal: Journal, candidate: Candidate, folder: Path) -> None:
    """Compare the candidate with eager PyTorch, within the tolerances of its precision."""
    import msgspec
    import numpy as np

    from deploykit.backends.adapters import CastingRunner, ReplayRunner
    from deploykit.core.values import Batch, DataRecord, Tolerance
    from deploykit.evaluate.parity.compare import compare_runners

    inputs, reference = np.load(folder / "inputs.npy"), np.load(folder / "reference_outputs.npy")
    record = msgspec.json.decode((folder / "data.json").read_bytes(), type=DataRecord)
    runner = CastingRunner(candidate.runner)
    batch = Batch({runner.inputs[0].name: inputs}, (None,) * len(inputs))
    oracle = ReplayRunner(runner.inputs, runner.outputs, {runner.outputs[0].name: reference})
    tolerance = Tolerance(candidate.precision, None, None, LEAST_DB[candidate.precision], None, {})
    verdict = compare_runners(oracle, runner, [batch], tolerance, record, "logits", candidate.caveats)
    output = verdict.outputs[0]
    journal.add_row(
        "parity",
        precision=candidate.name,
        passed=verdict.passed,
        failures=verdict.failures,
        max_relative=output.max_relative,
        cosine=output.cosine,
        snr_db=output.snr_db,
        top1_agreement=output.top1_agreement,
        caveats=verdict.caveats,
        data=record.name,
        samples=record.count,
    )


# ── Latency ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_latency(journal: Journal, candidates: Sequence[Candidate], batch: int, folder: Path) -> None:
    """All candidates in turn with transfers, then all without; sensors are read before and after."""
    import numpy as np

    pixels = np.ascontiguousarray(np.resize(np.load(folder / "inputs.npy"), (batch, *_read_image_shape(folder))))
    before = read_sensors()
    runs = {
        candidate.name: partial(candidate.runner.run, {candidate.runner.inputs[0].name: pixels})
        for candidate in candidates
    }
    end_to_end = _run_in_turn(runs, journal.remaining_s() / 3)
    calls = {c.name: c.on_device(pixels) for c in candidates if c.on_device is not None}
    parts: dict[str, list[Timing]] = {name: [] for name in calls}
    recorded = {name: partial(_record_timing, parts[name], call) for name, call in calls.items()}
    on_device = _run_in_turn(recorded, journal.remaining_s() / 2) if recorded else {}
    after = read_sensors()
    for candidate in candidates:
        name = candidate.name
        rounds = len(end_to_end[name])
        row: Row = {"batch": batch, "rounds": rounds, "before": before, "after": after}
        row["caveats"] = (*candidate.caveats, *getattr(candidate.runner, "caveats", ()))
        row["end_to_end_ms"] = _compute_percentiles(end_to_end[name])
        row["ratio"] = _compare_with_first(end_to_end, name, candidates[0].name)
        if name in parts:
            measured = parts[name][-len(on_device[name]) :]  # without the warm-up
            percentiles = {part: _compute_percentiles([round(1e6 * t[part]) for t in measured]) for part in measured[0]}
            row["on_device_ms"] = percentiles["compute"]
            row["parts_p50_ms"] = {part: figures["p50"] for part, figures in percentiles.items()}
        journal.add_row("latency", precision=name, **row)


def _read_image_shape(folder: Path) -> tuple[int, ...]:
    import numpy as np

    return tuple(np.load(folder / "inputs.npy", mmap_mode="r").shape[1:])


def _run_in_turn(runs: Mapping[str, Callable[[], object]], available_s: float) -> dict[str, tuple[int, ...]]:
    """Durations in nanoseconds, by name: as many rounds as fit the time, after a second of warm-up."""
    from deploykit.evaluate.latency.alternate import alternate_blocks

    for run in runs.values():
        run()  # the first call allocates, compiles and loads
    start = time.perf_counter()
    for run in runs.values():
        run()
    once = time.perf_counter() - start
    warm = min(max(int(WARM_UP_S / once), 3), 2000)
    rounds = min(max(int(min(MEASURE_S, available_s) / once), ROUNDS_AT_LEAST), ROUNDS_AT_MOST)
    alternate_blocks(runs, warm, pause_s=0, warmup_calls=0, block_s=0)
    blocks = alternate_blocks(runs, rounds, pause_s=0, warmup_calls=0, block_s=0)
    return {name: tuple(duration for (duration,) in calls) for name, calls in blocks.items()}


def _record_timing(timings: list[Timing], call: Callable[[], Timing]) -> None:
    timings.append(call())


def _compute_percentiles(nanoseconds: Sequence[int]) -> Timing:
    from deploykit.evaluate.latency.statistics import percentile

    return {f"p{share}": percentile(nanoseconds, share) / 1e6 for share in (50, 90, 99)}


def _compare_with_first(durations: dict[str, tuple[int, ...]], name: str, first: str) -> Row:
    """Time over that of the variant's first precision: median over rounds with its 95 % bootstrap interval."""
    from deploykit.evaluate.latency.statistics import median_ratio

    interval = median_ratio(durations[name], durations[first])
    return {"to": first, "ratio": interval.estimate, "low": interval.low, "high": interval.high}


# ── TensorRT and ONNX Runtime: graphs ───────────────────────────────────────────────────────────────────────────────

NEED_PYCUDA: Final = ("tensorrt", "tensorrt-rtx")

Candidates = list[tuple[str, Callable[[], Candidate]]]
"""What prepares each precision of a variant, by the precision's name."""


def find_graph(folder: Path, precision: str) -> tuple[Path, str]:
    """Folder and file name of a graph that the step `graphs` made. FileNotFoundError where that failed."""
    graphs = folder / precision
    if not (graphs / "graph.json").is_file():
        raise FileNotFoundError(f"there is no {precision} graph: see the rows of `graphs`")
    return graphs, json.loads((graphs / "graph.json").read_text())["file"]


def list_engines(journal: Journal, variant: str, network: str, folder: Path) -> Candidates:  # noqa: ARG001 - one signature
    return [(precision, partial(_build_engine, journal, variant, folder, precision)) for precision in PRECISIONS]


def _build_engine(journal: Journal, variant: str, folder: Path, precision: str) -> Candidate:
    """Build and load with the backend that `deploykit export` uses."""
    from deploykit.backends import create_backend

    source, file = find_graph(folder, precision)
    here = folder / variant / precision
    link_graph(source, here, file)
    used = create_backend("onnxruntime" if variant == "onnxruntime-cpu" else variant)
    with journal.activity(f"building the {precision} engine"):
        start = time.perf_counter()
        engine = used.compile(here / file, here)
        seconds = engine.build.seconds if engine.build else time.perf_counter() - start
    settings = engine.build.settings if engine.build else ()
    journal.add_row("engine", precision=precision, seconds=seconds, mib=engine.file.bytes / 2**20, settings=settings)
    with journal.activity(f"loading the {precision} engine"):
        runner = _load_engine(variant, used, engine, here)
    audit = partial(_audit_precision, journal, used, engine, runner, here, file, precision)
    journal.attempt("reading the executed precision", audit, precision=precision)
    timed = getattr(runner, "run_timed", None)
    caveats = (*engine.caveats, *([CAVEAT] if isinstance(runner, PlanRunner) else []))
    if caveats:
        journal.add_row("note", precision=precision, text="; ".join(caveats))
    return Candidate(precision, precision, runner, caveats, None if timed is None else partial(_time_runner, runner))


def _load_engine(variant: Any, used: Any, engine: Engine, here: Path) -> Runner:
    """As deploykit loads it; where pycuda is missing, with PyTorch's memory, which the rows then say."""
    if variant not in NEED_PYCUDA or importlib.util.find_spec("pycuda"):
        runner: Runner = used.load(engine, here)
        return runner
    from deploykit.backends.tensorrt.library import import_library

    if (absence := find_gpu()[1]) is not None:  # deserializing would end the process
        raise RuntimeError(absence)
    return PlanRunner(import_library(variant), here / engine.file.path, engine.inputs, engine.outputs)


def _audit_precision(
    journal: Journal, used: Any, engine: Engine, runner: Runner, here: Path, file: str, precision: str
) -> None:
    """The share of the multiply-accumulates at each precision, as the engine itself reports it."""
    from deploykit.quantize.receipt import compute_precision_receipt

    executed = (
        _inspect_plan(runner, here / file)
        if isinstance(runner, PlanRunner)
        else used.read_executed_precision(engine, here)
    )
    audit = compute_precision_receipt(here / file, executed, used.name, used.version)
    journal.add_row("receipt", precision=precision, shares=dict(audit.shares))


def _inspect_plan(runner: PlanRunner, graph: Path) -> Any:
    """The executed precision of each layer, which the backend reads from its own runner only."""
    import onnx_ir as ir

    from deploykit.backends.tensorrt import inspector
    from deploykit.backends.weighted_layers import find_weighted_layers
    from deploykit.core.values import ExecutedPrecision

    whole = ir.load(graph).graph
    names = [layer.name or "" for layer in find_weighted_layers(whole)]
    return ExecutedPrecision(
        inspector.EVIDENCE, inspector.arithmetic_by_node(inspector.parse_layers(runner.inspect_engine(), whole), names)
    )


def _time_runner(runner: Any, pixels: Any) -> Callable[[], Timing]:
    name = runner.inputs[0].name
    arrays = {name: pixels.astype(runner.inputs[0].dtype, copy=False)}

    def call() -> Timing:
        _, times = runner.run_timed(arrays)
        return {"compute": times.compute_ms, "h2d": times.h2d_ms, "d2h": times.d2h_ms, "enqueue": times.enqueue_ms}

    return call


def list_sessions(journal: Journal, variant: str, network: str, folder: Path) -> Candidates:  # noqa: ARG001
    return [(precision, partial(_open_session, folder, precision)) for precision in PRECISIONS]


def _open_session(folder: Path, precision: str) -> Candidate:
    """The unchanged graph in ONNX Runtime's CUDA provider."""
    import onnx_ir as ir
    import onnxruntime as ort

    from deploykit.backends.interface import read_interface

    graphs, file = find_graph(folder, precision)
    session = ort.InferenceSession(graphs / file, providers=["CUDAExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError(f"the session fell back to {session.get_providers()[0]}")
    inputs, outputs = read_interface(ir.load(graphs / file).graph)
    return Candidate(precision, precision, SessionRunner(session, inputs, outputs), (), partial(_bind_session, session))


class SessionRunner:
    """An ONNX Runtime session as a Runner."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._session, self.inputs, self.outputs = session, inputs, outputs

    def run(self, arrays: Any) -> dict[str, Any]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(arrays)), strict=True))


def _bind_session(session: Any, pixels: Any) -> Callable[[], Timing]:
    import onnxruntime as ort

    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0))
    binding.bind_output(session.get_outputs()[0].name, "cuda")

    def call() -> Timing:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return {"compute": 1e3 * (time.perf_counter() - start)}

    return call


# ── PyTorch: the module ─────────────────────────────────────────────────────────────────────────────────────────────

FP32, FP16, FP16_LAST = "fp32", "fp16", "fp16 channels_last"

TORCH_PRECISIONS: Final = {
    "torch-eager": (FP32, FP16, FP16_LAST),
    "torch-compile": (FP32, FP16_LAST),
    "torch-eager-cpu": (FP32,),
}

TORCH_CAVEAT: Final = "TF32 off, cudnn.benchmark on"


def list_modules(journal: Journal, variant: str, network: str, folder: Path) -> Candidates:
    """The PyTorch module that the graphs were exported from, with the same weights."""
    import torch

    from deploykit.export.networks.torch_network import TorchNetwork

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with journal.activity("building the module"):
        module = TorchNetwork(make_request(network, "fp32")).export_module.eval()
    return [(name, partial(_place_module, module, variant, name, folder)) for name in TORCH_PRECISIONS[variant]]


def _place_module(module: Any, variant: str, precision: str, folder: Path) -> Candidate:
    import torch

    device = "cpu" if variant.endswith("cpu") else "cuda"
    dtype = torch.float32 if precision == FP32 else torch.float16
    layout = torch.channels_last if precision == FP16_LAST else torch.contiguous_format
    moved = copy.deepcopy(module).to(device, dtype, memory_format=layout)
    ready = torch.compile(moved, dynamic=False) if variant == "torch-compile" else moved
    runner = ModuleRunner(ready, _read_image_shape(folder), device, dtype, layout)
    timed = partial(_time_module, runner) if device == "cuda" else None
    return Candidate(precision, precision.split()[0], runner, (TORCH_CAVEAT,), timed)


class ModuleRunner:
    """A module on a device as a Runner: takes and returns arrays in host memory."""

    def __init__(self, module: Any, image: tuple[int, ...], device: str, dtype: Any, layout: Any) -> None:
        from deploykit.core.values import TensorSpec

        self.module = module
        self.inputs = (TensorSpec("input", "float32", ("batch", *image), "NCHW"),)
        self.outputs = (TensorSpec("logits", "float32", ("batch", "classes"), "NC"),)
        self._device, self._dtype, self._layout = device, dtype, layout

    def send(self, pixels: Any) -> Any:
        import torch

        return torch.from_numpy(pixels).to(self._device, self._dtype, memory_format=self._layout)

    def run(self, arrays: Any) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            return {"logits": self.module(self.send(arrays["input"])).float().cpu().numpy()}


def _time_module(runner: ModuleRunner, pixels: Any) -> Callable[[], Timing]:
    import torch

    tensor = runner.send(pixels)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def call() -> Timing:
        with torch.inference_mode():
            host = time.perf_counter()
            start.record()
            runner.module(tensor)
            end.record()
            enqueue = time.perf_counter() - host
            end.synchronize()
        return {"compute": start.elapsed_time(end), "enqueue": 1e3 * enqueue}

    return call


VARIANTS: Final[dict[str, Callable[[Journal, str, str, Path], Candidates]]] = {
    "tensorrt": list_engines,
    "tensorrt-rtx": list_engines,
    "torch-eager": list_modules,
    "onnxruntime-cuda": list_sessions,
    "torch-compile": list_modules,
    "onnxruntime-cpu": list_engines,
    "torch-eager-cpu": list_modules,
}
