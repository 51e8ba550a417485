"""A network on a road: engines built, answers compared with eager PyTorch's in FP32, latency measured.

    included    from host memory to host memory, by the host's clock
    excluded    on data that is on the device already: by CUDA events, and for ONNX Runtime by the host's clock around a
                call and the wait for it

The variants of a road run in turn, call by call, after a warm-up of a second; roads run one after the other, each in a
process of its own.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gpu.journal import Journal, Row
from gpu.machine import gpu_or_absence, sensors
from gpu.material import PRECISIONS, place, request
from gpu.plans import STATEMENT, PlanRunner

if TYPE_CHECKING:
    from deploykit.core.values import Engine, Runner, TensorSpec

BATCHES: Final = (1, 8)

WARM_UP_S: Final = 1.0
MEASURE_S: Final = 4.0
ROUNDS_AT_LEAST: Final = 10
ROUNDS_AT_MOST: Final = 300

Timing = dict[str, float]
"""Milliseconds of one call by part: compute, and where they are known h2d, d2h and enqueue."""


class Candidate(NamedTuple):
    """A variant that is ready to run."""

    name: str
    precision: Any
    runner: Runner
    statements: tuple[str, ...]
    excluded: Callable[[Any], Callable[[], Timing]] | None
    """Given an input, what runs once on it without transfers; None where there is nothing to leave out."""


def go(journal: Journal, road: str, network: str, folder: Path) -> None:
    """Every variant that can be had; each that cannot is a row."""
    candidates: list[Candidate] = []
    for name, make in ROADS[road](journal, road, network, folder):
        if journal.left() < 10:
            journal.row("left_out", precision=name, why="the time was over")
            continue
        journal.trying(f"preparing {name}", lambda make=make: candidates.append(make()), precision=name)
    good = [
        each
        for each in candidates
        if journal.trying("comparing", partial(parity, journal, each, folder), precision=each.name)
    ]
    for batch in BATCHES:
        if good and journal.left() > 5:
            journal.trying(f"measuring at batch {batch}", partial(latency, journal, good, batch, folder), batch=batch)
        elif good:
            journal.row("left_out", batch=batch, why="the time was over")


# ── Parity ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def parity(journal: Journal, candidate: Candidate, folder: Path) -> None:
    """The candidate's answers beside eager PyTorch's, within the bounds of its precision."""
    import msgspec
    import numpy as np

    from deploykit.backends.adapters import Fitted, Recorded
    from deploykit.core.values import Batch, DataRecord
    from deploykit.evaluate.parity.compare import compare
    from deploykit.evaluate.parity.tolerances import for_precision

    inputs, answers = np.load(folder / "inputs.npy"), np.load(folder / "answers.npy")
    record = msgspec.json.decode((folder / "data.json").read_bytes(), type=DataRecord)
    runner = Fitted(candidate.runner)
    whole = Batch({runner.inputs[0].name: inputs}, (None,) * len(inputs))
    oracle = Recorded(runner.inputs, runner.outputs, {runner.outputs[0].name: answers})
    tolerance = for_precision(candidate.precision, trained=False)
    verdict = compare(oracle, runner, [whole], tolerance, record, "logits", candidate.statements)
    found = verdict.outputs[0]
    journal.row(
        "parity",
        precision=candidate.name,
        passed=verdict.passed,
        failures=verdict.failures,
        max_relative=found.max_relative,
        cosine=found.cosine,
        snr_db=found.snr_db,
        top1_agreement=found.top1_agreement,
        statements=verdict.statements,
        data=record.name,
        samples=record.count,
    )


# ── Latency ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def latency(journal: Journal, candidates: Sequence[Candidate], batch: int, folder: Path) -> None:
    """All candidates in turn with transfers, then all without; the sensors are read around it."""
    import numpy as np

    pixels = np.ascontiguousarray(np.resize(np.load(folder / "inputs.npy"), (batch, *_image(folder))))
    before = sensors()
    runs = {each.name: partial(each.runner.run, {each.runner.inputs[0].name: pixels}) for each in candidates}
    included = _in_turn(runs, journal.left() / 3)
    parts: dict[str, list[Timing]] = {each.name: [] for each in candidates if each.excluded is not None}
    alone = {each.name: each.excluded(pixels) for each in candidates if each.excluded is not None}
    kept = {name: partial(_keep, parts[name], run) for name, run in alone.items()}
    excluded = _in_turn(kept, journal.left() / 2) if kept else {}
    after = sensors()
    for each in candidates:
        rounds = len(included[each.name])
        row: Row = {"batch": batch, "rounds": rounds, "before": before, "after": after}
        row["statements"] = (*each.statements, *getattr(each.runner, "statements", ()))
        row["included_ms"] = _spread(included[each.name])
        row["beside_first"] = _beside(included, each.name, candidates[0].name)
        if each.name in parts:
            last = parts[each.name][-len(excluded[each.name]) :]
            spreads = {name: _spread([round(1e6 * part[name]) for part in last]) for name in last[0]}
            row["excluded_ms"] = spreads["compute"]
            row["parts_p50_ms"] = {name: spread["p50"] for name, spread in spreads.items()}
        journal.row("latency", precision=each.name, **row)


def _image(folder: Path) -> tuple[int, ...]:
    import numpy as np

    return tuple(np.load(folder / "inputs.npy", mmap_mode="r").shape[1:])


def _in_turn(runs: dict[str, Callable[[], object]], patience_s: float) -> dict[str, tuple[int, ...]]:
    """Nanoseconds of each, by name. Rounds are as many as fit the time, after a second of warm-up."""
    from deploykit.evaluate.latency.measure import interleave

    for run in runs.values():
        run()  # the first call allocates, compiles and loads
    start = time.perf_counter()
    for run in runs.values():
        run()
    once = time.perf_counter() - start
    warm = min(max(int(WARM_UP_S / once), 3), 2000)
    rounds = min(max(int(min(MEASURE_S, patience_s) / once), ROUNDS_AT_LEAST), ROUNDS_AT_MOST)
    return interleave(runs, rounds=rounds, warmup_rounds=warm)


def _keep(parts: list[Timing], run: Callable[[], Timing]) -> None:
    parts.append(run())


def _spread(nanoseconds: Sequence[int]) -> Timing:
    from deploykit.evaluate.latency.statistics import percentile

    return {f"p{share}": percentile(nanoseconds, share) / 1e6 for share in (50, 90, 99)}


def _beside(durations: dict[str, tuple[int, ...]], name: str, first: str) -> Timing:
    """The median over rounds of the time beside the road's first variant's, with its 95 % bootstrap interval."""
    from deploykit.evaluate.latency.statistics import ratio

    found = ratio(durations[name], durations[first])
    return {"to": first, "ratio": found.estimate, "low": found.low, "high": found.high}  # type: ignore[dict-item]


# ── TensorRT and ONNX Runtime: graphs ───────────────────────────────────────────────────────────────────────────────

BY_PYCUDA: Final = ("tensorrt", "tensorrt-rtx")

Variants = list[tuple[str, Callable[[], Candidate]]]


def _graph(folder: Path, precision: str) -> tuple[Path, str]:
    """The folder and the name of a graph that `graphs` made. FileNotFoundError where it could not."""
    made = folder / precision
    if not (made / "graph.json").is_file():
        raise FileNotFoundError(f"there is no {precision} graph: see the rows of `graphs`")
    return made, json.loads((made / "graph.json").read_text())["file"]


def engines(journal: Journal, road: str, network: str, folder: Path) -> Variants:  # noqa: ARG001 - all roads take these
    return [(precision, partial(_engine, journal, road, folder, precision)) for precision in PRECISIONS]


def _engine(journal: Journal, road: str, folder: Path, precision: str) -> Candidate:
    """Built by the backend that `deploykit export` uses, and loaded by it."""
    from deploykit.backends import backend

    made, file = _graph(folder, precision)
    here = folder / road / precision
    place(made, here, file)
    used = backend("onnxruntime" if road == "onnxruntime-cpu" else road)
    with journal.doing(f"building the {precision} engine"):
        start = time.perf_counter()
        engine = used.compile(here / file, here)
        seconds = engine.build.seconds if engine.build else time.perf_counter() - start
    settings = engine.build.settings if engine.build else ()
    journal.row("engine", precision=precision, seconds=seconds, mib=engine.file.bytes / 2**20, settings=settings)
    with journal.doing(f"loading the {precision} engine"):
        runner = _loaded(road, used, engine, here)
    shares = partial(_shares, journal, used, engine, runner, here, file, precision)
    journal.trying("asking what it computes in", shares, precision=precision)
    timed = getattr(runner, "timed", None)
    statements = (*engine.statements, *([STATEMENT] if isinstance(runner, PlanRunner) else []))
    if statements:
        journal.row("note", precision=precision, text="; ".join(statements))
    return Candidate(precision, precision, runner, statements, None if timed is None else partial(_timed, runner))


def _loaded(road: str, used: Any, engine: Engine, here: Path) -> Runner:
    """As deploykit loads it; where only pycuda is missing for that, with PyTorch's memory, which the rows then say."""
    if road not in BY_PYCUDA or importlib.util.find_spec("pycuda"):
        return used.load(engine, here)
    from deploykit.backends.tensorrt.library import library

    if (absence := gpu_or_absence()[1]) is not None:  # deserializing would end the process
        raise RuntimeError(absence)
    return PlanRunner(library(road), here / engine.file.path, engine.inputs, engine.outputs)


def _shares(journal: Journal, used: Any, engine: Engine, runner: Runner, here: Path, file: str, precision: str) -> None:
    """What share of the multiply-accumulates the engine itself says that it runs at each precision."""
    from deploykit.quantize.receipt import receipt

    executed = _inspected(runner, here / file) if isinstance(runner, PlanRunner) else used.executed(engine, here)
    found = receipt(here / file, executed, used.name, used.version)
    journal.row("receipt", precision=precision, shares=dict(found.shares))


def _inspected(runner: PlanRunner, graph: Path) -> Any:
    """What the backend reads of its own runner, read of this one."""
    import onnx_ir as ir

    from deploykit.backends.tensorrt import inspector
    from deploykit.backends.weighted_layers import layers
    from deploykit.core.values import Executed

    whole = ir.load(graph).graph
    names = [layer.name or "" for layer in layers(whole)]
    return Executed(inspector.EVIDENCE, inspector.arithmetic(inspector.layers(runner.inspected(), whole), names))


def _timed(runner: Any, pixels: Any) -> Callable[[], Timing]:
    name = runner.inputs[0].name
    given = {name: pixels.astype(runner.inputs[0].dtype, copy=False)}

    def once() -> Timing:
        _, spent = runner.timed(given)
        return {"compute": spent.compute_ms, "h2d": spent.h2d_ms, "d2h": spent.d2h_ms, "enqueue": spent.enqueue_ms}

    return once


def sessions(journal: Journal, road: str, network: str, folder: Path) -> Variants:  # noqa: ARG001
    return [(precision, partial(_session, folder, precision)) for precision in PRECISIONS]


def _session(folder: Path, precision: str) -> Candidate:
    """The graph as it is in ONNX Runtime's CUDA provider."""
    import onnx_ir as ir
    import onnxruntime as ort

    from deploykit.backends.interface import interface

    made, file = _graph(folder, precision)
    session = ort.InferenceSession(made / file, providers=["CUDAExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError(f"the session fell back to {session.get_providers()[0]}")
    inputs, outputs = interface(ir.load(made / file).graph)
    return Candidate(precision, precision, SessionRunner(session, inputs, outputs), (), partial(_bound, session))


class SessionRunner:
    """An ONNX Runtime session as a Runner."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._session, self.inputs, self.outputs = session, inputs, outputs

    def run(self, arrays: Any) -> dict[str, Any]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(arrays)), strict=True))


def _bound(session: Any, pixels: Any) -> Callable[[], Timing]:
    import onnxruntime as ort

    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0))
    binding.bind_output(session.get_outputs()[0].name, "cuda")

    def once() -> Timing:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return {"compute": 1e3 * (time.perf_counter() - start)}

    return once


# ── PyTorch: the module ─────────────────────────────────────────────────────────────────────────────────────────────

FP32, FP16, FP16_LAST = "fp32", "fp16", "fp16 channels_last"

TORCH_VARIANTS: Final = {
    "torch-eager": (FP32, FP16, FP16_LAST),
    "torch-compile": (FP32, FP16_LAST),
    "torch-eager-cpu": (FP32,),
}

TORCH_STATEMENT: Final = "TF32 off, cudnn.benchmark on"


def modules(journal: Journal, road: str, network: str, folder: Path) -> Variants:
    """The very module that was exported, with the same weights."""
    import torch

    from deploykit.export.networks.torch_network import TorchNetwork

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with journal.doing("building the module"):
        module = TorchNetwork(request(network, "fp32")).served.eval()
    return [(variant, partial(_module, module, road, variant, folder)) for variant in TORCH_VARIANTS[road]]


def _module(module: Any, road: str, variant: str, folder: Path) -> Candidate:
    import torch

    device = "cpu" if road.endswith("cpu") else "cuda"
    dtype = torch.float32 if variant == FP32 else torch.float16
    layout = torch.channels_last if variant == FP16_LAST else torch.contiguous_format
    moved = copy.deepcopy(module).to(device, dtype, memory_format=layout)
    ready = torch.compile(moved, dynamic=False) if road == "torch-compile" else moved
    runner = ModuleRunner(ready, _image(folder), device, dtype, layout)
    timed = partial(_events, runner) if device == "cuda" else None
    return Candidate(variant, variant.split()[0], runner, (TORCH_STATEMENT,), timed)


class ModuleRunner:
    """A module on a device as a Runner: arrays go in and come out in host memory."""

    def __init__(self, module: Any, image: tuple[int, ...], device: str, dtype: Any, layout: Any) -> None:
        from deploykit.core.values import TensorSpec

        self.module = module
        self.inputs = (TensorSpec("input", "float32", ("batch", *image), "NCHW"),)
        self.outputs = (TensorSpec("logits", "float32", ("batch", "classes"), "NC"),)
        self._device, self._dtype, self._layout = device, dtype, layout

    def sent(self, pixels: Any) -> Any:
        import torch

        return torch.from_numpy(pixels).to(self._device, self._dtype, memory_format=self._layout)

    def run(self, arrays: Any) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            return {"logits": self.module(self.sent(arrays["input"])).float().cpu().numpy()}


def _events(runner: ModuleRunner, pixels: Any) -> Callable[[], Timing]:
    import torch

    given = runner.sent(pixels)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def once() -> Timing:
        with torch.inference_mode():
            host = time.perf_counter()
            start.record()
            runner.module(given)
            end.record()
            enqueue = time.perf_counter() - host
            end.synchronize()
        return {"compute": start.elapsed_time(end), "enqueue": 1e3 * enqueue}

    return once


ROADS: Final[dict[str, Callable[[Journal, str, str, Path], Variants]]] = {
    "tensorrt": engines,
    "tensorrt-rtx": engines,
    "torch-eager": modules,
    "onnxruntime-cuda": sessions,
    "torch-compile": modules,
    "onnxruntime-cpu": engines,
    "torch-eager-cpu": modules,
}
