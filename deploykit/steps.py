"""The stages as the pipeline calls them: each takes values and files, and is found in the cache if it was done before.

What a stage made lies in a folder; what it says of it lies beside as `entry.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from deploykit import cache, keys
from deploykit.bench.measure import measure
from deploykit.bundle.write import write_golden
from deploykit.data import Data, open_data
from deploykit.errors import CheckFailed, UsageError
from deploykit.network import Network
from deploykit.parity.compare import compare
from deploykit.parity.tolerances import for_precision
from deploykit.provenance import provenance
from deploykit.quantize.cast import cast
from deploykit.quantize.observe import expose, observe
from deploykit.values import (
    Arrays,
    Backend,
    BatchRange,
    DataRecord,
    Engine,
    ExportedGraph,
    ExportRequest,
    Golden,
    Latency,
    ModelSpec,
    Parity,
    Precision,
    Progress,
    Runner,
    TensorSpec,
    TypedGraph,
    Value,
    WeightsRecord,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANGE_SAMPLES: Final = 16
"""Samples on which values are checked against FP16's range."""


class Graph(NamedTuple):
    """An exported graph, the function that it computes, and the folder that holds it."""

    folder: Path
    model: ModelSpec
    exported: ExportedGraph
    classes: tuple[str, ...]
    """Names of the classes, where the weights came with them."""


class Typed(NamedTuple):
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


class Verdict(NamedTuple):
    """Parity, and the engine that was judged."""

    parity: Parity
    engine: Engine


def exported(request: ExportRequest, network: Network, backend: Backend, progress: Progress) -> Graph:
    """The network as an FP32 graph that `backend` runs at the smallest batch, at 2 and at the largest."""
    if request.options.opset not in backend.opsets:
        raise UsageError(
            f"{backend.name} {backend.version} does not take opset {request.options.opset}.",
            f"It takes {backend.opsets.start} to {backend.opsets.stop - 1}.",
        )

    def build(folder: Path) -> None:
        from deploykit.export.export import export

        with progress.step(f"tracing {request.model} to ONNX"):
            stripped = network.architecture.training_only
            record = network.loaded.record
            graph = export(network.served, network.model, request.options, record, stripped, folder)
        if graph.fallback is not None:
            progress.note(f"The TorchScript exporter was used, since the default one failed: {graph.fallback}")
        sizes = acceptance(request.options.batch)
        with progress.step(f"running it at batch {', '.join(map(str, sizes))}", len(sizes)) as advance:
            runner = backend.load(backend.compile(folder / graph.files[0].path, folder), folder)
            accept(runner, sizes, advance)
        _save(folder, _Exported(network.model, graph, network.classes))

    key = {"request": keys.graph(request), "backend": keys.backend(backend)}
    folder = cache.fetch("graph", key, build)
    entry = _load(folder, _Exported)
    return Graph(folder, entry.model, entry.graph, entry.classes)


def typed(request: ExportRequest, graph: Graph, backend: Backend, progress: Progress) -> Typed:
    """The graph at the request's precision; its values are checked on the calibration split."""
    main = graph.exported.files[0]
    if request.precision == "fp32":
        return untyped(graph)
    data = open_data(request.data, "calibration", RANGE_SAMPLES, request.options.batch)

    def build(folder: Path) -> None:
        exposed = folder / "exposed.onnx"
        expose(graph.folder / main.path, exposed)
        runner = backend.load(backend.compile(exposed, folder), folder)
        with progress.step(f"checking values on {data.record.name}", data.length) as advance:
            ranges = observe(runner, (batch.inputs for batch in data.batches(graph.model, advance)), data.record)
        exposed.unlink()
        with progress.step(f"typing the graph {request.precision}"):
            _save(folder, _Typed(cast(graph.folder / main.path, ranges, folder), data.record))

    key = {"graph": main.sha256, "data": data.record, "precision": request.precision, **keys.tools()}
    folder = cache.fetch("typed", key, build)
    entry = _load(folder, _Typed)
    file = entry.graph.files[0]
    return Typed(folder, file.path, file.sha256, request.precision, entry.graph, entry.data)


def untyped(graph: Graph) -> Typed:
    """The exported graph as it is."""
    main = graph.exported.files[0]
    return Typed(graph.folder, main.path, main.sha256, "fp32", None, None)


def answered(network: Network, graph: Graph, data: Data, progress: Progress) -> Answers:
    """Eager PyTorch's answers to every sample, and the first of them as golden vectors."""
    made = graph.exported

    def build(folder: Path) -> None:
        oracle = network.eager(made.inputs, made.outputs)
        batches, outputs = data.batches(graph.model), []
        with progress.step(f"asking eager PyTorch about {data.record.name}", data.length) as advance:
            first = next(batches).inputs
            few = {name: array[: golden_count(made.batch)] for name, array in first.items()}
            golden = write_golden(folder, few, oracle.run(few))
            for inputs in (first, *(batch.inputs for batch in batches)):
                outputs.append(oracle.run(inputs))
                advance()
        for name in outputs[0]:
            np.save(folder / f"{name}.npy", np.concatenate([output[name] for output in outputs]))
        _save(folder, _Answered(golden))

    key = {"model": graph.model, "weights": made.weights, "batch": made.batch, "data": data.record, **keys.tools()}
    folder = cache.fetch("answers", key, build)
    return Answers(folder, _load(folder, _Answered).golden)


def judged(graph: Graph, typed: Typed, answers: Answers, backend: Backend, data: Data, progress: Progress) -> Verdict:
    """The graph's own answers beside eager PyTorch's."""
    made = graph.exported

    def build(folder: Path) -> None:
        engine = backend.compile(typed.folder / typed.file, typed.folder)
        recorded = {spec.name: np.load(answers.folder / f"{spec.name}.npy") for spec in made.outputs}
        oracle = Recorded(made.inputs, made.outputs, recorded)
        candidate = backend.load(engine, typed.folder)
        parity = judge(oracle, candidate, graph.model, typed.precision, made.weights, engine, data, progress)
        _save(folder, _Judged(parity, engine))

    key = {"graph": typed.sha256, "model": graph.model, "weights": made.weights, "data": data.record}
    folder = cache.fetch("verdict", {**key, "backend": keys.backend(backend), **keys.tools()}, build)
    entry = _load(folder, _Judged)
    return Verdict(entry.parity, entry.engine)


class Recorded:
    """A runner that gives recorded answers in the order in which they were recorded, a batch's worth per call."""

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], answers: Mapping[str, NDArray[Any]]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._answers = answers
        self._given = 0

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The next answers, as many as there are rows in the input."""
        start = self._given
        self._given += len(next(iter(arrays.values())))
        return {name: answers[start : self._given] for name, answers in self._answers.items()}


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
    with progress.step(f"comparing {precision} with eager PyTorch on {data.record.name}", data.length) as advance:
        return compare(
            oracle,
            candidate,
            data.batches(model, advance),
            for_precision(precision, weights.trained),
            data.record,
            model.head,
            (*untrained(weights), *engine.statements),
        )


def measured(typed: Typed, verdict: Verdict, answers: Answers, backend: Backend, progress: Progress) -> Latency:
    """Latency of one call with the smallest batch that the graph takes, on this machine."""

    def build(folder: Path) -> None:
        runner = backend.load(verdict.engine, typed.folder)
        inputs = first_call(runner, answers)
        with progress.step("measuring latency"):
            latency = measure(lambda: runner.run(inputs), batch=len(inputs["input"]))
        _save(folder, latency)

    here = provenance()
    key = {"graph": typed.sha256, "backend": keys.backend(backend), **keys.tools()}
    machine = {"host": here.host, "processor": here.processor, "cores": here.cores}
    return _load(cache.fetch("latency", {**key, **machine}, build), Latency)


def acceptance(batch: BatchRange) -> tuple[int, ...]:
    """The batch sizes that a graph is tried at before it is accepted."""
    sizes = {batch.minimum, 2, batch.maximum}
    return tuple(sorted(size for size in sizes if batch.minimum <= size <= batch.maximum))


def accept(runner: Runner, sizes: tuple[int, ...], advance: Callable[[], None]) -> None:
    """Run at each batch size. CheckFailed where a row's answer depends on how many rows there are: a batch size that
    an exporter baked in shows here.
    """
    spec = runner.inputs[0]
    shape = tuple(int(size) for size in spec.shape[1:])
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    pair: NDArray[Any] = pixels if spec.dtype == "uint8" else (pixels.astype(np.float32) - 128) / 64
    expected: dict[int, NDArray[Any]] = {}
    for size in sizes:
        (answer,) = runner.run({spec.name: np.resize(pair, (size, *shape))}).values()
        if len(answer) != size:
            raise CheckFailed(f"At batch {size} the graph answers {len(answer)} rows.", "Try the other --exporter.")
        for row in range(min(size, 2)):
            reference = expected.setdefault(row, answer[row])
            if not np.allclose(answer[row], reference, rtol=0, atol=1e-3 * float(np.abs(reference).max())):
                raise CheckFailed(
                    f"At batch {size} the graph answers row {row} otherwise than at batch {sizes[0]}.",
                    "A batch size may have been baked in: try the other --exporter.",
                )
        advance()


def golden_count(batch: BatchRange) -> int:
    """Two samples where the batch allows: one alone cannot show that rows are mixed up."""
    return min(max(2, batch.minimum), batch.maximum)


def first_call(runner: Runner, answers: Answers) -> dict[str, NDArray[Any]]:
    """Golden inputs, cut to one row where the batch is free."""
    static = runner.inputs[0].shape[0]
    size = static if isinstance(static, int) else 1
    loaded = {name: np.load(answers.folder / path) for name, path in answers.golden.inputs.items()}
    return {name: np.ascontiguousarray(array[:size]) for name, array in loaded.items()}


def untrained(weights: WeightsRecord) -> tuple[str, ...]:
    """What must be said of a network that was never trained."""
    if weights.trained:
        return ()
    return (f"the weights are {weights.source}: the network is untrained and its answers mean nothing",)


# ── What the cache keeps beside a stage's files ─────────────────────────────────────────────────────────────────────


class _Exported(Value, frozen=True):
    model: ModelSpec
    graph: ExportedGraph
    classes: tuple[str, ...]


class _Typed(Value, frozen=True):
    graph: TypedGraph
    data: DataRecord


class _Answered(Value, frozen=True):
    golden: Golden


class _Judged(Value, frozen=True):
    parity: Parity
    engine: Engine


ENTRY: Final = "entry.json"

Entry = TypeVar("Entry")


def _save(folder: Path, entry: Value) -> None:
    (folder / ENTRY).write_bytes(msgspec.json.encode(entry))


def _load(folder: Path, kind: type[Entry]) -> Entry:
    return msgspec.json.decode((folder / ENTRY).read_bytes(), type=kind)
