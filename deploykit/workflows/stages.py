"""The stages as the pipeline calls them: each takes values and files, and is found in the cache if it was done before.

What a stage made lies in a folder; what it says of it lies beside as `entry.json`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from deploykit.backends.adapters import Fitted, Recorded
from deploykit.bundle.write import write_golden
from deploykit.core import cache
from deploykit.core.calibration.batches import Data, tensors
from deploykit.core.errors import CheckFailed, UsageError
from deploykit.core.files import plain
from deploykit.core.provenance import provenance
from deploykit.core.values import (
    Backend,
    BatchRange,
    DataRecord,
    Engine,
    ExportedGraph,
    ExportRequest,
    Golden,
    Measured,
    ModelSpec,
    Parity,
    Precision,
    PrecisionReceipt,
    Progress,
    Runner,
    TensorSpec,
    TypedGraph,
    Value,
    WeightsRecord,
)
from deploykit.evaluate.latency.measure import PARTS, measure
from deploykit.evaluate.parity.compare import compare, untrained
from deploykit.evaluate.parity.tolerances import for_precision
from deploykit.export.networks import Network
from deploykit.quantize.receipt import receipt
from deploykit.workflows import cache_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Graph(NamedTuple):
    """An exported graph, the function that it computes, and the folder that holds it."""

    folder: Path
    model: ModelSpec
    exported: ExportedGraph
    classes: tuple[str, ...]
    """Names of the classes, where the weights came with them."""

    @property
    def taken(self) -> tuple[TensorSpec, ...]:
        """Inputs that samples must have as they are; none where they are made of images."""
        return tensors(self.model, self.exported.inputs)


class PrecisionGraph(NamedTuple):
    """A graph at the precision asked for; at FP32 that is the exported graph itself."""

    folder: Path
    file: str
    sha256: str
    precision: Precision
    graph: TypedGraph | None
    range_data: DataRecord | None


class Answers(NamedTuple):
    """What eager PyTorch answered to every sample, as `NAME.npy` in the folder, and the golden vectors among it."""

    folder: Path
    golden: Golden


class Built(NamedTuple):
    """An engine and the folder that it is in."""

    folder: Path
    engine: Engine


class Verdict(NamedTuple):
    """Parity, and the engine that was judged."""

    parity: Parity
    built: Built


def export_graph(request: ExportRequest, network: Network, backend: Backend, progress: Progress) -> Graph:
    """The network as an FP32 graph that `backend` runs at the smallest batch, at 2 and at the largest."""
    if request.options.opset not in backend.opsets:
        raise UsageError(
            f"{backend.name} {backend.version} does not take opset {request.options.opset}.",
            f"It takes {backend.opsets.start} to {backend.opsets.stop - 1}.",
        )

    def build(folder: Path) -> None:
        with progress.step(f"making an ONNX graph of {request.model}"):
            graph = network.write(folder)
        if graph.fallback is not None:
            progress.note(f"The TorchScript exporter was used, since the default one failed: {graph.fallback}")
        sizes = acceptance(request.options.batch)
        with progress.step(f"running it at batch {', '.join(map(str, sizes))}", len(sizes)) as advance:
            runner = backend.load(backend.compile(folder / graph.files[0].path, folder), folder)
            accept(runner, sizes, advance)
        save(folder, _Exported(network.model, graph, network.classes, tuple(network.notes)))

    key = {"request": cache_keys.graph(request), "backend": backend.identity}
    folder = cache.fetch("graph", key, build)
    entry = load(folder, _Exported)
    for note in entry.notes:
        progress.note(note)
    return Graph(folder, entry.model, entry.graph, entry.classes)


def as_fp32(graph: Graph) -> PrecisionGraph:
    """The exported graph as it is."""
    main = graph.exported.files[0]
    return PrecisionGraph(graph.folder, main.path, main.sha256, "fp32", None, None)


def run_oracle(network: Network, graph: Graph, data: Data, progress: Progress) -> Answers:
    """Eager PyTorch's answers to every sample, and the first of them as golden vectors."""
    made = graph.exported

    def build(folder: Path) -> None:
        oracle = network.oracle(made.inputs, made.outputs)
        batches, outputs = data.batches(graph.model), []
        with progress.step(f"asking {graph.model.oracle} about {data.record.name}", data.length) as advance:
            first = next(batches).inputs
            few = {name: array[: golden_count(made.batch)] for name, array in first.items()}
            golden = write_golden(folder, few, oracle.run(few))
            for inputs in (first, *(batch.inputs for batch in batches)):
                outputs.append(oracle.run(inputs))
                advance()
        for name in outputs[0]:
            np.save(folder / f"{plain(name)}.npy", np.concatenate([output[name] for output in outputs]))
        save(folder, _Answered(golden))

    key = {
        "model": graph.model,
        "weights": made.weights,
        "batch": made.batch,
        "data": data.record,
        **cache_keys.tools(),
    }
    folder = cache.fetch("answers", key, build)
    return Answers(folder, load(folder, _Answered).golden)


def compile_engine(typed: PrecisionGraph, backend: Backend, progress: Progress) -> Built:
    """The graph as `backend` will run it, in a folder with whatever the backend writes."""

    def build(folder: Path) -> None:
        for file in (typed.file, f"{typed.file}.data"):
            if (typed.folder / file).is_file():
                os.link(typed.folder / file, folder / file)
        with progress.step(f"compiling for {backend.name}"):
            engine = backend.compile(folder / typed.file, folder, progress)
        save(folder, engine)

    key = {"graph": typed.sha256, "backend": backend.identity, **cache_keys.tools()}
    folder = cache.fetch("engine", key, build)
    return Built(folder, load(folder, Engine))


def evaluate_parity(graph: Graph, typed: PrecisionGraph, answers: Answers, backend: Backend, data: Data, progress: Progress) -> Verdict:
    """The graph's own answers beside eager PyTorch's."""
    made = graph.exported
    built = compile_engine(typed, backend, progress)

    def build(folder: Path) -> None:
        recorded = {spec.name: np.load(answers.folder / f"{plain(spec.name)}.npy") for spec in made.outputs}
        oracle = Recorded(made.inputs, made.outputs, recorded)
        candidate = Fitted(backend.load(built.engine, built.folder))
        parity = judge(oracle, candidate, graph.model, typed.precision, made.weights, built.engine, data, progress)
        save(folder, parity)

    key = {"graph": typed.sha256, "model": graph.model, "weights": made.weights, "data": data.record}
    folder = cache.fetch("verdict", {**key, "backend": backend.identity, **cache_keys.tools()}, build)
    return Verdict(load(folder, Parity), built)


def audit_precision(typed: PrecisionGraph, verdict: Verdict, backend: Backend, progress: Progress) -> PrecisionReceipt:
    """In what arithmetic the engine that was judged really computes."""
    engine = verdict.built.engine

    def build(folder: Path) -> None:
        with progress.step(f"asking {backend.name} what it computes in"):
            executed = backend.executed(engine, verdict.built.folder)
        save(folder, receipt(typed.folder / typed.file, executed, backend.name, backend.version))

    key = {"graph": typed.sha256, "backend": backend.identity, "processor": provenance().processor}
    return load(cache.fetch("receipt", {**key, **cache_keys.tools()}, build), PrecisionReceipt)


def judge(
    oracle: Runner,
    candidate: Runner,
    model: ModelSpec,
    precision: Precision,
    weights: WeightsRecord,
    engine: Engine,
    data: Data,
    progress: Progress,
) -> Parity:
    """Both runners on the same samples."""
    with progress.step(f"comparing {precision} with {model.oracle} on {data.record.name}", data.length) as advance:
        parity = compare(
            oracle,
            candidate,
            data.batches(model, advance),
            for_precision(precision, weights.trained),
            data.record,
            model.head,
            (*untrained(weights), *engine.statements),
        )
    return msgspec.structs.replace(parity, oracle=model.oracle)


def measure_latency(typed: PrecisionGraph, verdict: Verdict, answers: Answers, backend: Backend, progress: Progress) -> Measured:
    """Latency of one call with the smallest batch that the graph takes, on this machine."""

    def build(folder: Path) -> None:
        runner = backend.load(verdict.built.engine, verdict.built.folder)
        inputs = first_call(runner, answers)
        with progress.step("measuring latency", PARTS) as advance:
            measured = measure(lambda: runner.run(inputs), batch=len(next(iter(inputs.values()))), advance=advance)
        save(folder, measured)

    here = provenance()
    key = {"graph": typed.sha256, "backend": backend.identity, **cache_keys.tools()}
    machine = {"host": here.host, "processor": here.processor, "cores": here.cores}
    return load(cache.fetch("latency", {**key, **machine}, build), Measured)


def acceptance(batch: BatchRange) -> tuple[int, ...]:
    """The batch sizes that a graph is tried at before it is accepted."""
    sizes = {batch.minimum, 2, batch.maximum}
    return tuple(sorted(size for size in sizes if batch.minimum <= size <= batch.maximum))


def accept(runner: Runner, sizes: tuple[int, ...], advance: Callable[[], None]) -> None:
    """Run at each batch size. CheckFailed where a row's answer depends on how many rows there are: a batch size that
    an exporter baked in shows here.
    """
    pairs = {spec.name: _pair(spec) for spec in runner.inputs}
    expected: dict[tuple[str, int], NDArray[Any]] = {}
    for size in sizes:
        given = {name: np.resize(pair, (size, *pair.shape[1:])) for name, pair in pairs.items()}
        for name, answer in runner.run(given).items():
            if len(answer) != size:
                raise CheckFailed(f"At batch {size} the graph answers {len(answer)} rows.", BAKED)
            for row in range(min(size, 2)):
                reference = expected.setdefault((name, row), answer[row])
                scale = float(np.abs(reference, dtype=np.float64).max(initial=0))
                if not np.allclose(answer[row], reference, rtol=0, atol=1e-3 * scale, equal_nan=True):
                    raise CheckFailed(
                        f"At batch {size} the graph answers row {row} otherwise than at batch {sizes[0]}.", BAKED
                    )
        advance()


BAKED: Final = "A batch size may have been baked in: give --batch with one number, or try the other --exporter."


def _pair(spec: TensorSpec) -> NDArray[Any]:
    """Two rows for one input: pixels, numbers like normalised pixels, or small integers."""
    shape = tuple(int(size) for size in spec.shape[1:])
    random = np.random.default_rng(0)
    if spec.dtype == "uint8":
        return random.integers(0, 256, (2, *shape), dtype=np.uint8)
    if spec.dtype.startswith("int"):
        return random.integers(0, 2, (2, *shape)).astype(spec.dtype)
    return (random.integers(0, 256, (2, *shape)).astype(np.float32) - 128) / 64


def golden_count(batch: BatchRange) -> int:
    """Two samples where the batch allows: one alone cannot show that rows are mixed up."""
    return min(max(2, batch.minimum), batch.maximum)


def first_call(runner: Runner, answers: Answers) -> dict[str, NDArray[Any]]:
    """Golden inputs, cut to one row where the batch is free."""
    static = runner.inputs[0].shape[0]
    size = static if isinstance(static, int) else 1
    loaded = {name: np.load(answers.folder / path) for name, path in answers.golden.inputs.items()}
    types = {spec.name: spec.dtype for spec in runner.inputs}
    return {name: np.ascontiguousarray(array[:size], dtype=types[name]) for name, array in loaded.items()}


# ── What the cache keeps beside a stage's files ─────────────────────────────────────────────────────────────────────


class _Exported(Value, frozen=True):
    model: ModelSpec
    graph: ExportedGraph
    classes: tuple[str, ...]
    notes: tuple[str, ...]


class _Answered(Value, frozen=True):
    golden: Golden


ENTRY: Final = "entry.json"

Entry = TypeVar("Entry")


def save(folder: Path, entry: Value) -> None:
    """What a stage says of the files that it left in `folder`."""
    (folder / ENTRY).write_bytes(msgspec.json.encode(entry))


def load(folder: Path, kind: type[Entry]) -> Entry:
    """What was said of the files in `folder`."""
    return msgspec.json.decode((folder / ENTRY).read_bytes(), type=kind)
