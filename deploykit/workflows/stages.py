"""The stages of an export, each a function from values and files to values and files, with its result cached.

The files of a stage lie in a cache folder, together with their record, `entry.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from deploykit.backends.adapters import CastingRunner
from deploykit.bundle.write import write_golden
from deploykit.core import cache
from deploykit.core.calibration.batches import SampleBatches, tensor_inputs
from deploykit.core.errors import CheckFailed, InputError, UsageError
from deploykit.core.files import escape_name
from deploykit.core.onnx_io import place_graph
from deploykit.core.provenance import collect_provenance
from deploykit.core.values import (
    Backend,
    BatchRange,
    DataRecord,
    Engine,
    ExportedGraph,
    ExportRequest,
    Golden,
    Measurement,
    ModelSpec,
    Parity,
    Precision,
    PrecisionGraphRecord,
    PrecisionReceipt,
    Progress,
    Runner,
    Stages,
    TensorSpec,
    Value,
)
from deploykit.evaluate.latency.measure import PROGRESS_STEPS, measure_calls
from deploykit.evaluate.parity.compare import PairedOutputs, measure_outputs, run_batches
from deploykit.evaluate.parity.tolerances import UNBOUNDED
from deploykit.export.networks import Network
from deploykit.quantize.receipt import compute_precision_receipt
from deploykit.workflows import cache_keys
from deploykit.workflows.verdict import JudgedBundle, Judgement, LoadedEngine, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Fp32Graph(NamedTuple):
    """The exported FP32 graph, the model that it computes, and the folder that holds it."""

    folder: Path
    model: ModelSpec
    exported: ExportedGraph
    classes: tuple[str, ...]
    """Class names, where the weights came with them."""

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.folder / self.exported.files[0].path

    @property
    def sha256(self) -> str:
        """Digest of the ONNX file and its external data."""
        return self.exported.sha256

    @property
    def tensor_inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that samples must hold as tensors; empty where they are computed from images."""
        return tensor_inputs(self.model, self.exported.inputs)


class PrecisionGraph(NamedTuple):
    """The graph at the requested precision; at FP32 it is the exported graph itself."""

    folder: Path
    file: str
    sha256: str
    precision: Precision
    conversion: PrecisionGraphRecord | None
    """How it was cast or quantized; None at FP32."""
    range_data: DataRecord | None

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.folder / self.file


class OracleOutputs(NamedTuple):
    """The reference outputs for every sample, as `NAME.npy` in the folder, and the golden vectors among them."""

    folder: Path
    golden: Golden


class BuiltEngine(NamedTuple):
    """An engine and the folder that holds it."""

    folder: Path
    engine: Engine


class Verdict(NamedTuple):
    """Parity, and the engine that was compared."""

    parity: Parity
    built: BuiltEngine


class Session(NamedTuple):
    """What every stage after the reference run works with. `_replace(backend=…)` evaluates another backend."""

    request: ExportRequest
    graph: Fp32Graph
    oracle: OracleOutputs
    data: SampleBatches
    """The evaluation samples; `oracle` has their reference outputs."""
    reference: Backend
    """Runs the FP32 graph to read the values of its tensors."""
    backend: Backend
    """Builds and runs the engine that is evaluated."""
    progress: Progress


def export_graph(request: ExportRequest, network: Network, backend: Backend, progress: Progress) -> Fp32Graph:
    """Export the network as an FP32 graph, and check that `backend` runs it at the smallest batch, at 2 and at the
    largest.
    """
    if request.options.opset not in backend.opsets:
        raise UsageError(
            f"{backend.name} {backend.version} does not support opset {request.options.opset}.",
            f"Choose --opset from {backend.opsets.start} to {backend.opsets.stop - 1}.",
        )

    def write_graph(folder: Path) -> None:
        with progress.step(f"exporting {request.model} to ONNX"):
            graph = network.write_graph(folder)
        if graph.fallback_reason is not None:
            progress.note(f"The default exporter failed, so the TorchScript exporter was used: {graph.fallback_reason}")
        sizes = request.options.batch.checked_sizes
        with progress.step(f"running the graph at batch {', '.join(map(str, sizes))}", len(sizes)) as advance:
            runner = backend.load(backend.compile(folder / graph.files[0].path, folder), folder)
            try:
                check_batch_sizes(runner, sizes, advance)
            except CheckFailed as error:
                for note in graph.notes:  # they name the lines that the exporter recorded for one batch
                    progress.note(note)
                if graph.fallback_reason is None:
                    raise
                raise InputError(
                    f"{request.model} treats its batch as a fixed number in Python code, which TorchScript's exporter "
                    f"records: {error.what}",
                    "Give --batch with one number, such as --batch 1, or compute all samples in one call.",
                ) from error
        save_entry(folder, _ExportEntry(network.model, graph, network.classes, tuple(network.notes)))

    key = {"request": cache_keys.graph_key(request), "backend": backend.identity}
    folder = cache.fetch_or_build("graph", key, write_graph)
    entry = load_entry(folder, _ExportEntry)
    for note in (*entry.notes, *entry.graph.notes):
        progress.note(note)
    return Fp32Graph(folder, entry.model, entry.graph, entry.classes)


def as_fp32(graph: Fp32Graph) -> PrecisionGraph:
    """The exported graph, unchanged, as a graph at FP32 precision."""
    return PrecisionGraph(graph.folder, graph.exported.files[0].path, graph.sha256, "fp32", None, None)


def run_oracle(network: Network, graph: Fp32Graph, data: SampleBatches, progress: Progress) -> OracleOutputs:
    """Compute the reference outputs for every sample in FP32; the first samples become the golden vectors."""
    exported = graph.exported

    def write_outputs(folder: Path) -> None:
        oracle = network.oracle(exported.inputs, exported.outputs)
        batches, outputs = data.batches(graph.model), []
        with progress.step(f"computing {format_reference(graph.model)} on {data.record.name}", data.length) as advance:
            first = next(batches).inputs
            golden_inputs = {name: array[: count_golden(exported.batch)] for name, array in first.items()}
            golden = write_golden(folder, golden_inputs, oracle.run(golden_inputs))
            for inputs in (first, *(batch.inputs for batch in batches)):
                outputs.append(oracle.run(inputs))
                advance()
        for name in outputs[0]:
            np.save(folder / f"{escape_name(name)}.npy", np.concatenate([output[name] for output in outputs]))
        save_entry(folder, _OracleEntry(golden))

    key = {
        "model": graph.model,
        "weights": exported.weights,
        "batch": exported.batch,
        "data": data.record,
        **cache_keys.tool_versions(),
    }
    folder = cache.fetch_or_build("reference", key, write_outputs)
    return OracleOutputs(folder, load_entry(folder, _OracleEntry).golden)


def format_reference(model: ModelSpec) -> str:
    """The oracle as progress messages name it: `the PyTorch FP32 reference`."""
    if model.oracle == "eager PyTorch":
        return "the PyTorch FP32 reference"
    return f"the FP32 reference ({model.oracle})"


def compile_engine(session: Session, graph: PrecisionGraph) -> BuiltEngine:
    """Compile the graph for the session's backend, in a folder with all files that the backend writes."""
    backend = session.backend

    def write_engine(folder: Path) -> None:
        place_graph(graph.path, folder / graph.file)
        with session.progress.step(f"compiling for {backend.name}"):
            engine = backend.compile(folder / graph.file, folder, session.progress)
        save_entry(folder, engine)

    key = {"graph": graph.sha256, "backend": backend.identity, **cache_keys.tool_versions()}
    folder = cache.fetch_or_build("engine", key, write_engine)
    return BuiltEngine(folder, load_entry(folder, Engine))


def compare_engine(session: Session, graph: PrecisionGraph) -> Verdict:
    """Compile the graph and compare the engine's outputs with the reference outputs, without a verdict: candidates are
    chosen by it.
    """
    backend = session.backend
    built = compile_engine(session, graph)

    def write_comparison(folder: Path) -> None:
        model, data = session.graph.model, session.data
        candidate = CastingRunner(backend.load(built.engine, built.folder))
        title = f"comparing {graph.precision} with {model.oracle} on {data.record.name}"
        with session.progress.step(title, data.length) as advance:
            outputs, labels = run_batches(candidate, data.batches(model, advance), backend.name)
        paired = PairedOutputs(load_oracle_outputs(session), outputs, labels)
        save_entry(folder, measure_outputs(paired, UNBOUNDED, data.record, model.head))

    folder = cache.fetch_or_build("comparison", _comparison_key(session, graph), write_comparison)
    return Verdict(load_entry(folder, Parity), built)


def evaluate_parity(session: Session, graph: PrecisionGraph, built: BuiltEngine) -> Judgement:
    """The verdict on an engine of the graph, and the same stage by stage."""
    request, backend = session.request, session.backend

    def write_verdict(folder: Path) -> None:
        bundle = JudgedBundle(
            session.graph.model,
            graph.precision,
            session.graph.exported.weights,
            request.output_kinds,
            session.oracle.golden.count,
            session.data,
            session.graph.path,
            graph.path,
        )
        form = built.folder / built.engine.file.path if is_own_form(built.engine, graph.file) else None
        runner = CastingRunner(backend.load(built.engine, built.folder))
        loaded = LoadedEngine(built.engine, runner, form)
        judgement = judge(bundle, load_oracle_outputs(session), loaded, session.progress)
        save_entry(folder, _VerdictEntry(judgement.parity, judgement.stages))

    key = {**_comparison_key(session, graph), "kinds": request.output_kinds}
    entry = load_entry(cache.fetch_or_build("verdict", key, write_verdict), _VerdictEntry)
    return Judgement(entry.parity, entry.stages)


def load_oracle_outputs(session: Session) -> dict[str, NDArray[Any]]:
    """The reference outputs for every sample, by name."""
    names = [spec.name for spec in session.graph.exported.outputs]
    return {name: np.load(session.oracle.folder / f"{escape_name(name)}.npy") for name in names}


def is_own_form(engine: Engine, graph_file: str) -> bool:
    """Whether the engine is the backend's own form of the graph, an ONNX file that can be computed as written."""
    return engine.file.path.endswith(".onnx") and engine.file.path != graph_file


def _comparison_key(session: Session, graph: PrecisionGraph) -> dict[str, Any]:
    return {
        "graph": graph.sha256,
        "model": session.graph.model,
        "weights": session.graph.exported.weights,
        "data": session.data.record,
        "backend": session.backend.identity,
        "processor": collect_provenance().processor,
        **cache_keys.tool_versions(),
    }


def audit_precision(session: Session, graph: PrecisionGraph, built: BuiltEngine) -> PrecisionReceipt:
    """Read back which arithmetic the engine really uses, as shares of all multiply-accumulates."""
    backend = session.backend

    def write_receipt(folder: Path) -> None:
        with session.progress.step(f"reading the executed precision of {backend.name}"):
            executed = backend.read_executed_precision(built.engine, built.folder)
        save_entry(folder, compute_precision_receipt(graph.path, executed, backend.name, backend.version))

    key = {"graph": graph.sha256, "backend": backend.identity, "processor": collect_provenance().processor}
    folder = cache.fetch_or_build("receipt", {**key, **cache_keys.tool_versions()}, write_receipt)
    return load_entry(folder, PrecisionReceipt)


def measure_latency(session: Session, built: BuiltEngine) -> Measurement:
    """Measure the latency of one call on this machine, at the smallest batch that the graph accepts. Never cached: a
    time is that of this run.
    """
    runner = session.backend.load(built.engine, built.folder)
    inputs = first_call_inputs(runner, session.oracle)
    with session.progress.step("measuring latency", PROGRESS_STEPS) as advance:
        return measure_calls(lambda: runner.run(inputs), batch=len(next(iter(inputs.values()))), advance=advance)


def engine_bytes(built: BuiltEngine) -> int:
    """Size of the engine's file, with the external data of a graph."""
    data = built.folder / f"{built.engine.file.path}.data"
    return built.engine.file.bytes + (data.stat().st_size if data.is_file() else 0)


def check_batch_sizes(runner: Runner, sizes: tuple[int, ...], advance: Callable[[], None]) -> None:
    """Run at each batch size. CheckFailed where a row's output depends on the batch size: that is how a batch size
    shows which the exporter baked into the graph.
    """
    pairs = {spec.name: _make_input_pair(spec) for spec in runner.inputs}
    expected: dict[tuple[str, int], NDArray[Any]] = {}
    for size in sizes:
        inputs = {name: np.resize(pair, (size, *pair.shape[1:])) for name, pair in pairs.items()}
        for name, output in runner.run(inputs).items():
            if len(output) != size:
                raise CheckFailed(f"At batch {size} the graph returns {len(output)} rows.", BAKED)
            for row in range(min(size, 2)):
                first = expected.setdefault((name, row), output[row])
                scale = float(np.abs(first, dtype=np.float64).max(initial=0))
                if not np.allclose(output[row], first, rtol=0, atol=1e-3 * scale, equal_nan=True):
                    raise CheckFailed(
                        f"At batch {size} row {row} of output {name!r} differs from the same row at batch {sizes[0]}.",
                        BAKED,
                    )
        advance()


BAKED: Final = (
    "The exporter may have baked in a batch size: give --batch with a single number, or try another --exporter."
)


def _make_input_pair(spec: TensorSpec) -> NDArray[Any]:
    """Two rows for one input: uint8 pixels, values like normalized pixels, or integers 0 and 1."""
    shape = tuple(int(size) for size in spec.shape[1:])
    random = np.random.default_rng(0)
    if spec.dtype == "uint8":
        return random.integers(0, 256, (2, *shape), dtype=np.uint8)
    if spec.dtype.startswith("int"):
        return random.integers(0, 2, (2, *shape)).astype(spec.dtype)
    return (random.integers(0, 256, (2, *shape)).astype(np.float32) - 128) / 64


def count_golden(batch: BatchRange) -> int:
    """Number of golden samples: two where the batch allows, since a single one cannot reveal mixed-up rows."""
    return min(max(2, batch.minimum), batch.maximum)


def first_call_inputs(runner: Runner, oracle: OracleOutputs) -> dict[str, NDArray[Any]]:
    """Golden inputs, cut to one row where the batch is dynamic."""
    static = runner.inputs[0].shape[0]
    size = static if isinstance(static, int) else 1
    arrays = {name: np.load(oracle.folder / path) for name, path in oracle.golden.inputs.items()}
    dtypes = {spec.name: spec.dtype for spec in runner.inputs}
    return {name: np.ascontiguousarray(array[:size], dtype=dtypes[name]) for name, array in arrays.items()}


# ── Records in the cache ────────────────────────────────────────────────────────────────────────────────────────────


class _ExportEntry(Value, frozen=True):
    model: ModelSpec
    graph: ExportedGraph
    classes: tuple[str, ...]
    notes: tuple[str, ...]


class _OracleEntry(Value, frozen=True):
    golden: Golden


class _VerdictEntry(Value, frozen=True):
    parity: Parity
    stages: Stages


ENTRY: Final = "entry.json"

Entry = TypeVar("Entry")


def save_entry(folder: Path, entry: Value) -> None:
    """Write the record of the files in `folder`."""
    (folder / ENTRY).write_bytes(msgspec.json.encode(entry))


def load_entry(folder: Path, kind: type[Entry]) -> Entry:
    """Read the record of the files in `folder`."""
    return msgspec.json.decode((folder / ENTRY).read_bytes(), type=kind)
