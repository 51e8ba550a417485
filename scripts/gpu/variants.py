"""A network in one variant, one precision after the other: built, compared with eager PyTorch in FP32 on the CPU, and
timed at every batch size as `gpu/timing.py` says. Sensors are read before and after.

What is done first is what tells most: FP16 before FP32, and every batch size complete before the next.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gpu.graphs import link_graph, make_request
from gpu.journal import Journal, Row
from gpu.machine import read_sensors
from gpu.parity import evaluate_parity
from gpu.timing import BATCHES, EVENTS, WARM_UP_S, count_calls, time_by_host, time_on_stream, warm_up

if TYPE_CHECKING:
    from deploykit.core.values import Engine, Runner

LEAST_S: Final = 4.0
"""A batch size is not begun with less time than this."""


class Candidate(NamedTuple):
    """A variant at one precision, ready to run."""

    precision: Any
    runner: Runner
    caveats: tuple[str, ...]
    time_on_device: Callable[[Any], Iterator[Row]] | None
    """Given a batch, yields the fields of one latency row per way of launching; None where nothing is on a GPU."""


Candidates = list[tuple[str, Callable[[], Candidate]]]
"""What prepares each precision of a variant, by the precision's name."""


def measure_variant(journal: Journal, variant: str, network: str, folder: Path) -> None:
    """Every precision; each that fails becomes a row."""
    candidates = VARIANTS[variant](journal, variant, network, folder)
    journal.await_turn()
    for name, prepare in candidates:
        if journal.remaining_s() < LEAST_S:
            journal.add_row("skipped", precision=name, why="no time was left")
            continue
        measure = partial(measure_precision, journal, name, prepare, folder)
        journal.attempt(f"preparing {name}", measure, precision=name)


def measure_precision(journal: Journal, name: str, prepare: Callable[[], Candidate], folder: Path) -> None:
    """Parity and latency at each batch size. A failure at one of them is a row, and the next is tried."""
    candidate = prepare()
    for batch in BATCHES:
        if journal.remaining_s() < LEAST_S:
            journal.add_row("skipped", precision=name, batch=batch, why="no time was left")
            continue
        measure = partial(measure_batch, journal, name, candidate, batch, folder)
        journal.attempt(f"measuring {name} at batch {batch}", measure, precision=name, batch=batch)


def measure_batch(journal: Journal, name: str, candidate: Candidate, batch: int, folder: Path) -> None:
    runner = candidate.runner
    spec = runner.inputs[0]

    def run(pixels: Any) -> Any:
        return next(iter(runner.run({spec.name: pixels.astype(spec.dtype, copy=False)}).values()))

    with journal.activity(f"comparing {name} at batch {batch}"):
        evaluate_parity(journal, name, candidate.precision, batch, run, folder, candidate.caveats)
    pixels, before = make_batch(folder, batch), read_sensors()
    caveats = (*candidate.caveats, *getattr(runner, "caveats", ()))
    fields: Row = {"precision": name, "batch": batch, "caveats": caveats, "before": before}
    if candidate.time_on_device is not None:
        for timed in candidate.time_on_device(pixels):
            journal.add_row("latency", **fields, **timed, after=read_sensors())
    end_to_end, calls = time_by_host(partial(run, pixels), seconds=0.05)
    journal.add_row(
        "latency", **fields, end_to_end_ms=end_to_end, calls=calls, timed_by="host clock", after=read_sensors()
    )


def make_batch(folder: Path, batch: int) -> Any:
    """(batch, 3, H, W) float32: the samples, from the start again where there are fewer."""
    import numpy as np

    return np.ascontiguousarray(np.resize(np.load(folder / "inputs.npy"), (batch, *read_image_shape(folder))))


def read_image_shape(folder: Path) -> tuple[int, ...]:
    import numpy as np

    return tuple(np.load(folder / "inputs.npy", mmap_mode="r").shape[1:])


# ── deploykit's backends: engines of a graph ────────────────────────────────────────────────────────────────────────

ENGINE_PRECISIONS: Final = ("fp16", "int8", "fp32")

WITHOUT_INT8: Final = ("onnxruntime-cuda",)
"""Backends that compute INT8 in floating point, and say so."""


def find_graph(folder: Path, precision: str) -> tuple[Path, str]:
    """Folder and file name of a graph that the step `graphs` made. FileNotFoundError where that failed."""
    graphs = folder / precision
    if not (graphs / "graph.json").is_file():
        raise FileNotFoundError(f"there is no {precision} graph: see the rows of `graphs`")
    return graphs, json.loads((graphs / "graph.json").read_text())["file"]


def list_engines(journal: Journal, variant: str, network: str, folder: Path) -> Candidates:  # noqa: ARG001 - one signature
    """One per precision whose graph was made; INT8 graphs are not made for every network."""
    from deploykit.backends import create_backend

    used = create_backend("onnxruntime" if variant == "onnxruntime-cpu" else variant)
    if (reason := used.unavailable_reason()) is not None:
        raise RuntimeError(reason)
    precisions = [
        precision
        for precision in ENGINE_PRECISIONS
        if precision != "int8" or (variant not in WITHOUT_INT8 and (folder / precision / "graph.json").is_file())
    ]
    return [
        (precision, partial(_build_engine, journal, used, folder / variant / precision, folder, precision))
        for precision in precisions
    ]


def _build_engine(journal: Journal, used: Any, here: Path, folder: Path, precision: str) -> Candidate:
    """Build and load as `deploykit export` does."""
    import msgspec

    source, file = find_graph(folder, precision)
    link_graph(source, here, file)
    with journal.activity(f"building the {precision} engine"):
        start = time.perf_counter()
        engine = used.compile(here / file, here)
        seconds = engine.build.seconds if engine.build else time.perf_counter() - start
    (here / "engine.json").write_bytes(msgspec.json.encode(engine))
    settings = engine.build.settings if engine.build else ()
    journal.add_row("engine", precision=precision, seconds=seconds, mib=_measure_mib(here, engine), settings=settings)
    with journal.activity(f"loading the {precision} engine"):
        runner = used.load(engine, here)
    audit = partial(_audit_precision, journal, used, engine, here, file, precision)
    journal.attempt("reading the executed precision", audit, precision=precision)
    if engine.caveats:
        journal.add_row("note", precision=precision, text="; ".join(engine.caveats))
    timed = partial(_time_engine, runner) if hasattr(runner, "gpu_times") and hasattr(runner, "run_timed") else None
    return Candidate(precision, runner, engine.caveats, timed)


def _measure_mib(here: Path, engine: Engine) -> float:
    """With the external data of a graph."""
    data = here / f"{engine.file.path}.data"
    return float(engine.file.bytes + (data.stat().st_size if data.is_file() else 0)) / 2**20


def _audit_precision(journal: Journal, used: Any, engine: Engine, here: Path, file: str, precision: str) -> None:
    """The share of the multiply-accumulates at each precision, as the engine itself reports it."""
    from deploykit.quantize.receipt import compute_precision_receipt

    executed = used.read_executed_precision(engine, here)
    audit = compute_precision_receipt(here / file, executed, used.name, used.version)
    journal.add_row("receipt", precision=precision, shares=dict(audit.shares))


def _time_engine(runner: Any, pixels: Any) -> Iterator[Row]:
    """Without a CUDA graph and with one, as deploykit reports it; where that fails, as a call reports itself."""
    spec = runner.inputs[0]
    arrays = {spec.name: pixels.astype(spec.dtype, copy=False)}
    calls = count_calls(warm_up(lambda: runner.run_timed(arrays), 0))  # gpu_times warms up itself
    try:
        times = runner.gpu_times(arrays, calls)
    except Exception as error:  # whatever a library raises: the calls themselves are timed too
        print(f"gpu_times failed: {error!r}")
        warm_up(lambda: runner.run_timed(arrays), WARM_UP_S)
        timings = [runner.run_timed(arrays)[1] for _ in range(calls)]
        parts = ("compute", "h2d", "d2h", "enqueue")
        medians = {part: statistics.median(getattr(t, f"{part}_ms") for t in timings) for part in parts}
        yield {
            "cuda_graph": None,
            "on_device_ms": {"p50": medians["compute"]},
            "parts_p50_ms": medians,
            "calls": calls,
            "timed_by": f"{EVENTS}, by deploykit's run_timed: gpu_times failed, see the log",
        }
        return
    for time_ in times:
        yield {
            "cuda_graph": time_.cuda_graph,
            "on_device_ms": {"p50": time_.compute_ms},
            "parts_p50_ms": {"h2d": time_.h2d_ms, "d2h": time_.d2h_ms, "enqueue": time_.enqueue_ms},
            "calls": calls,
            "timed_by": f"{EVENTS}, by deploykit's gpu_times",
        }


# ── PyTorch: the module ─────────────────────────────────────────────────────────────────────────────────────────────

FP32, FP16_LAST = "fp32", "fp16 channels_last"

COMPILED: Final[dict[str, str | None]] = {"torch-compile": None, "torch-reduce-overhead": "reduce-overhead"}
"""Variants that use torch.compile, and its mode."""

TORCH_PRECISIONS: Final = {
    "torch-eager": (FP16_LAST, FP32),
    "torch-compile": (FP16_LAST,),
    "torch-reduce-overhead": (FP16_LAST,),
    "torch-eager-cpu": (FP32,),
}

TORCH_CAVEAT: Final = "TF32 off, cudnn.benchmark on"


def list_modules(journal: Journal, variant: str, network: str, folder: Path) -> Candidates:
    """The PyTorch module that the graphs were exported from, with the same weights."""
    with journal.activity("building the module"):
        module = build_module(network)
    return [(name, partial(_place_module, module, variant, name, folder)) for name in TORCH_PRECISIONS[variant]]


def build_module(network: str) -> Any:
    import torch

    from deploykit.export.networks.torch_network import TorchNetwork

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return TorchNetwork(make_request(network, "fp32")).export_module.eval()


def _place_module(module: Any, variant: str, precision: str, folder: Path) -> Candidate:
    import torch

    device = "cpu" if variant.endswith("cpu") else "cuda"
    dtype = torch.float32 if precision == FP32 else torch.float16
    layout = torch.channels_last if precision == FP16_LAST else torch.contiguous_format
    ready = copy.deepcopy(module).to(device, dtype, memory_format=layout)
    if variant in COMPILED:
        ready = torch.compile(ready, dynamic=False, mode=COMPILED[variant])
    runner = ModuleRunner(ready, read_image_shape(folder), device, dtype, layout)
    # FP32 is bound by the GPU, and reduce-overhead captures a CUDA graph itself.
    with_graph = precision == FP16_LAST and variant != "torch-reduce-overhead"
    is_graph = variant == "torch-reduce-overhead"
    timed = partial(_time_module, runner, is_graph, with_graph) if device == "cuda" else None
    return Candidate(precision.split()[0], runner, (TORCH_CAVEAT,), timed)


class ModuleRunner:
    """A module on a device as a Runner: takes and returns arrays in host memory."""

    def __init__(self, module: Any, image: tuple[int, ...], device: str, dtype: Any, layout: Any) -> None:
        from deploykit.core.values import TensorSpec

        self.module = module
        self.inputs = (TensorSpec("input", "float32", ("batch", *image), "NCHW"),)
        self.outputs = (TensorSpec("logits", "float32", ("batch", "classes"), "NC"),)
        self._device, self._dtype, self._layout = device, dtype, layout

    def send(self, pixels: Any) -> Any:
        """The batch on the device: copied as it is, and converted there."""
        import torch

        return torch.from_numpy(pixels).to(self._device).to(self._dtype, memory_format=self._layout)

    def run(self, arrays: Any) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            return {"logits": self.module(self.send(arrays["input"])).float().cpu().numpy()}


def _time_module(runner: ModuleRunner, is_graph: bool, with_graph: bool, pixels: Any) -> Iterator[Row]:
    """As PyTorch launches it, by a CUDA graph or not; then, if wanted, as a CUDA graph that is captured here."""
    import torch

    stream = torch.cuda.current_stream() if is_graph else torch.cuda.Stream()  # nothing is captured on the default one
    with torch.inference_mode(), torch.cuda.stream(stream):
        tensor = runner.send(pixels)
        stream.synchronize()
        yield {"cuda_graph": is_graph, **time_on_stream(lambda: runner.module(tensor), stream)}
        if with_graph:
            graph = capture_module(runner.module, tensor, stream)
            yield {"cuda_graph": True, **time_on_stream(graph.replay, stream)}


def capture_module(module: Any, tensor: Any, stream: Any) -> Any:
    """A CUDA graph of the module on this tensor. RuntimeError where it does not compute what the module does when the
    tensor's content has changed.
    """
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        output = module(tensor)
    tensor.mul_(-0.5)
    graph.replay()
    stream.synchronize()
    actual, expected = output.float().clone(), module(tensor).float()
    error = float((actual - expected).abs().max() / expected.abs().max())
    if not error < 1e-2:
        raise RuntimeError(f"the CUDA graph's output is off by {error:.1e} of full scale")
    tensor.mul_(-2)
    return graph


VARIANTS: Final[dict[str, Callable[[Journal, str, str, Path], Candidates]]] = {
    "tensorrt": list_engines,
    "tensorrt-rtx": list_engines,
    "torch-eager": list_modules,
    "onnxruntime-cuda": list_engines,
    "torch-compile": list_modules,
    "torch-reduce-overhead": list_modules,
    "onnxruntime-cpu": list_engines,
    "torch-eager-cpu": list_modules,
}
