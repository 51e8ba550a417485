"""Find where a bundle's error comes from: at which stage, in which layer, on which samples.

    preprocessing   the reference on inputs from the manifest's preprocessing, against the network's own
    export          the FP32 graph, exported again or from the cache; for an FP32 bundle its own
    precision       the bundle's graph with its Casts or Q/DQ nodes, computed as written, without a compiler
    form            the graph in the form that a backend derived from it, computed the same way
    engine          every engine of the bundle that this machine can load
    C++             the C++ library, which selects its engine on its own

From the export stage on, all inputs come from the manifest's preprocessing, so that an error of it is reported once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
import onnx_ir as ir

from deploykit.backends import create_backend, is_installed
from deploykit.backends.adapters import CastingRunner
from deploykit.backends.choice import reference_backend
from deploykit.backends.weighted_layers import find_weighted_layers
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.open import first_runnable, load_engine
from deploykit.bundle.verify import check_files
from deploykit.core import cpp_programs
from deploykit.core.calibration.batches import open_data, tensor_inputs
from deploykit.core.errors import BackendError, DeploykitError, InputError, UsageError
from deploykit.core.values import (
    CLASSIFIER_HEADS,
    Arrays,
    Backend,
    Engine,
    LayerErrors,
    ModelSpec,
    OutputKind,
    Parity,
    PrecisionCost,
    Progress,
    Runner,
    SampleDifferences,
    Stage,
    Stages,
    TensorSample,
    Tolerance,
    WorstSample,
)
from deploykit.evaluate.cost import resolve_kinds
from deploykit.evaluate.parity import cpp_outputs as cpp
from deploykit.evaluate.parity import samples as by_sample
from deploykit.evaluate.parity.compare import untrained_caveats
from deploykit.evaluate.parity.faithfulness import bound_faithfulness, compare_with_graph
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.layer_errors import error_power, fusion_boundaries, input_for, rank_layers, split_at
from deploykit.evaluate.parity.metrics import snr_db
from deploykit.evaluate.parity.precision_cost import measure_half_precision_cost, measure_int8_cost
from deploykit.evaluate.parity.stages import (
    StageAttribution,
    add_engine_stage,
    conversion_stage,
    cost_tolerance,
    engine_tolerance,
    graph_name,
)
from deploykit.evaluate.parity.tolerances import for_fp32
from deploykit.export.layer_rows import read_layer_rows
from deploykit.quantize.calibrate import add_graph_outputs
from deploykit.workflows import precision, stages
from deploykit.workflows.as_written import open_as_written, open_floor, open_node_by_node
from deploykit.workflows.bundle_audit import Findings, audit_engine_form, audit_precision_graph
from deploykit.workflows.source_network import rebuild_source_network
from deploykit.workflows.verdict import JudgedBundle, LoadedEngine, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORDED_MARGIN_DB: Final = 1.0
"""SNR by which a graph computed as written may differ from that of its export on the same samples: another version of
the runtime that computes it adds up in another order.
"""

FROM_PYTHON: Final = "the C++ library received inputs preprocessed in Python: its own preprocessing was not tested"


class DiagnosedBundle:
    """A bundle, the network that it was exported from, and the samples to evaluate it on. It keeps outputs.

    InputError where the weights are not the bundle's, or where samples were calibrated on; CheckFailed where files are
    damaged.
    """

    def __init__(
        self, folder: Path, data: str | None, samples: int | None, weights: str | None, progress: Progress
    ) -> None:
        manifest = manifests.read_manifest(folder)
        check_files(folder, manifest)
        self.folder = folder
        self.manifest = manifest
        self.network = rebuild_source_network(folder, manifest, weights, progress)
        request, inputs = manifest.request, tensor_inputs(manifest.model, manifest.inputs)
        self.data = open_data(
            data or request.data, "evaluation", samples or request.samples, manifest.batch, inputs, note=progress.note
        )
        if (calibration := manifest.calibration) is not None:
            precision.require_disjoint(calibration.data, calibration.samples, self.data)
        self.progress = progress
        self.labels: tuple[int | None, ...] = ()
        """Labels of the samples; known after the first run, since an image is decoded for its label too."""
        self._engine_outputs: dict[tuple[str, str], tuple[Engine, Arrays]] = {}

    def require_layers(self) -> None:
        """UsageError for a graph without a precision stage, or whose tensors no runtime can output."""
        if self.manifest.precision == "fp32":
            raise UsageError(
                f"{self.folder} is FP32: its graph is the exported one, so no layer adds an error.",
                "Give --layers a bundle of another precision.",
            )
        if self.manifest.precision == "bf16":
            raise UsageError(f"{self.folder} is BF16, and no runtime outputs BF16 tensors.", "Use --stages instead.")

    def require_classes(self) -> None:
        """UsageError for a network that is not a classifier."""
        head = self.manifest.model.head
        if head not in CLASSIFIER_HEADS:
            outputs = "embeddings" if head == "embedding" else "tensors"
            raise UsageError(f"{self.folder} outputs {outputs}, which have no classes.", "Omit --worst.")

    @property
    def fp32_tolerance(self) -> Tolerance:
        """The tolerance of FP32 for this network."""
        return for_fp32(self.manifest.weights.trained)

    @cached_property
    def kinds(self) -> Mapping[str, OutputKind]:
        """The kind of every output."""
        request = self.manifest.request
        return resolve_kinds(self.oracle_outputs, self.manifest.model.head, request.output_kinds)

    def measure_cost(self, graph: GraphOutputs) -> PrecisionCost:
        """The cost of a graph of the bundle's precision, computed as written on the samples or on the first of them."""
        precision, oracle = self.manifest.precision, self.manifest_oracle_outputs
        if precision in ("fp16", "bf16"):
            return measure_half_precision_cost(oracle, graph, self.floor_outputs, self.kinds, precision)
        return measure_int8_cost(oracle, graph, self.kinds, self.manifest.weights.trained)

    @cached_property
    def floor_outputs(self) -> Arrays:
        """Outputs of the FP32 graph with every weight and activation rounded to the bundle's 16-bit type."""
        precision = self.manifest.precision
        assert precision in ("fp16", "bf16")
        with open_floor(self.fp32_graph, precision) as runner:
            return self.run_samples(runner, f"running the FP32 graph rounded to {precision.upper()}")

    def run_as_written(self, graph: Path, name: str) -> Arrays:
        """Outputs of a graph of the bundle's precision, every rounding done."""
        with open_as_written(graph, self.manifest.precision) as runner:
            return self.run_samples(runner, f"running {name},")

    def judge_engine(self) -> Parity:
        """The verdict on the primary engine, or on the next one that runs here."""
        loaded = first_runnable(self.folder, self.manifest, self.manifest.engines)
        engine = loaded.engine
        form = self.folder / engine.file.path if stages.is_own_form(engine, self.manifest.graph.file) else None
        bundle = JudgedBundle(
            self.manifest.model,
            self.manifest.precision,
            self.manifest.weights,
            self.manifest.request.output_kinds,
            self.manifest.golden.count,
            self.data,
            self.fp32_graph,
            self.precision_graph,
        )
        judged = LoadedEngine(engine, loaded.runner, form)
        return judge(bundle, self.manifest_oracle_outputs, judged, self.progress).parity

    @cached_property
    def oracle_outputs(self) -> Arrays:
        """The reference outputs, with the network's own preprocessing. InputError where they hold NaN or infinity:
        nothing can be compared with that.
        """
        outputs = self.run_samples(self._oracle, self._oracle_title, self.network.model)
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise InputError(
                f"The network that {self.folder} was exported from gives NaN or infinity on {self.data.record.name}.",
                "Check its weights and the samples: there is nothing that the bundle could be compared with.",
            )
        return outputs

    @property
    def has_own_preprocessing(self) -> bool:
        """Whether the manifest's preprocessing is the network's own."""
        return self.manifest.model.preprocessing == self.network.model.preprocessing

    @cached_property
    def manifest_oracle_outputs(self) -> Arrays:
        """The reference outputs, with the manifest's preprocessing."""
        if self.has_own_preprocessing:
            return self.oracle_outputs
        return self.run_samples(self._oracle, f"{self._oracle_title} with the manifest's preprocessing")

    @cached_property
    def fp32_graph(self) -> Path:
        """The FP32 graph: an FP32 bundle's own, else exported again or from the cache."""
        if self.manifest.precision == "fp32":
            return self.precision_graph
        return stages.export_graph(self.network.request, self.network, reference_backend(), self.progress).path

    @cached_property
    def graph_findings(self) -> Findings:
        """How the bundle's own graph differs from the FP32 graph beyond its conversion."""
        return audit_precision_graph(self.folder, self.manifest, self.fp32_graph)

    @property
    def precision_graph(self) -> Path:
        """The bundle's own graph."""
        return self.folder / self.manifest.graph.file

    @property
    def has_ready_inputs(self) -> bool:
        """Whether the samples are preprocessed inputs instead of images."""
        first = self.data.samples[0]
        return isinstance(first, TensorSample) or first.image.dtype == np.float32

    @property
    def input_mismatch(self) -> str | None:
        """Why the graph does not accept what the manifest's preprocessing gives, as half a sentence; None: it does."""
        spec = self.manifest.inputs[0]
        array = next(self.data.batches(self.manifest.model)).inputs[spec.name]
        dtype = "float32" if spec.dtype == "float16" else spec.dtype
        if (array.shape[1:], array.dtype.name) == (spec.shape[1:], dtype):
            return None
        size, expected = ("×".join(map(str, shape[1:])) for shape in (array.shape, spec.shape))
        return f"it gives inputs of {size}, {array.dtype.name}, but the graph expects {expected}, {dtype}"

    def run_samples(self, runner: Runner, title: str, model: ModelSpec | None = None) -> Arrays:
        """Outputs for all samples, preprocessed by `model`, or else by the manifest."""
        outputs: list[Arrays] = []
        labels: list[int | None] = []
        with self.progress.step(f"{title} on {self.data.record.name}", self.data.length) as advance:
            for batch in self.data.batches(model or self.manifest.model, advance):
                arrays = runner.run(batch.inputs)
                outputs.append({spec.name: np.array(arrays[spec.name]) for spec in runner.outputs})
                labels += batch.labels
        self.labels = tuple(labels)
        return {name: np.concatenate([arrays[name] for arrays in outputs]) for name in outputs[0]}

    def run_engine(self, engine: Engine) -> tuple[Engine, Arrays]:
        """An engine of the bundle as it was loaded, and its outputs. BackendError where it cannot run here."""
        key = engine.backend, engine.file.path
        if key not in self._engine_outputs:
            loaded, runner = load_engine(self.folder, self.manifest, engine)
            self._engine_outputs[key] = loaded, self.run_samples(runner, f"running {loaded.backend}")
        return self._engine_outputs[key]

    @property
    def engine_outputs(self) -> Arrays:
        """Outputs of the primary engine, or of the next one that runs here."""
        first_error: BackendError | None = None
        for engine in self.manifest.engines:
            try:
                return self.run_engine(engine)[1]
            except BackendError as error:
                first_error = first_error or error
        assert first_error is not None, "a bundle has an engine"
        raise first_error

    @cached_property
    def _oracle(self) -> Runner:
        return self.network.oracle(self.manifest.inputs, self.manifest.outputs)

    @property
    def _oracle_title(self) -> str:
        return f"computing {stages.format_reference(self.network.model)}"


def evaluate_stages(bundle: DiagnosedBundle) -> Stages:
    """Compare every stage, from images to an application's outputs, with the stage before it."""
    manifest = bundle.manifest
    tolerance = bundle.fp32_tolerance if manifest.precision == "fp32" else manifest.parity.tolerance
    attribution = StageAttribution(bundle.oracle_outputs, bundle.data.record, manifest.model.head, tolerance)
    caveats = [*untrained_caveats(manifest.weights), *_preprocessing_differences(bundle)]
    if _evaluate_preprocessing(bundle, attribution):
        caveats += _evaluate_graphs(bundle, attribution)
        caveats += _evaluate_engines(bundle, attribution)
    return attribution.summarize(tuple(dict.fromkeys(caveats)))


def _evaluate_preprocessing(bundle: DiagnosedBundle, attribution: StageAttribution) -> bool:
    """Whether the later stages can be evaluated."""
    name, exact = "the manifest's preprocessing", bundle.fp32_tolerance
    if (problem := bundle.input_mismatch) is not None:
        attribution.fail_stage("preprocessing", name, exact, problem)
        return False
    if bundle.has_ready_inputs:
        attribution.skip_stage("preprocessing", name, exact, "the samples are already preprocessed inputs")
    else:
        outputs = bundle.manifest_oracle_outputs
        attribution.add_stage("preprocessing", name, exact, outputs, attribution.previous_outputs)
        attribution.previous_outputs = outputs
    return True


def _evaluate_graphs(bundle: DiagnosedBundle, attribution: StageAttribution) -> tuple[str, ...]:
    """Evaluate the FP32 graph, and the graph at the bundle's precision; returns their caveats."""
    precision = bundle.manifest.precision
    backend = reference_backend()
    with _compiled_runner(backend, bundle.fp32_graph, _copy_graph) as runner:
        outputs = bundle.run_samples(runner, "running the FP32 graph")
    own = ", the bundle's own" if precision == "fp32" else ""
    name = f"the FP32 graph{own}, in {backend.identity}"
    attribution.add_stage("export", name, bundle.fp32_tolerance, outputs, attribution.previous_outputs)
    attribution.previous_outputs = outputs
    if precision == "fp32":
        return ()
    stage, name = conversion_stage(precision), f"{graph_name(precision)}, as written"
    try:
        outputs = bundle.run_as_written(bundle.precision_graph, name)
    except (BackendError, InputError) as error:
        _add_graph_without_outputs(attribution, stage, name, bundle.graph_findings, error.what)
    else:
        graph, recorded = GraphOutputs(name, outputs), bundle.manifest.parity.cost
        _add_graph_stage(bundle, attribution, stage, graph, recorded, bundle.graph_findings)
        attribution.previous_outputs = outputs
    return bundle.graph_findings.caveats


def _add_graph_without_outputs(
    attribution: StageAttribution, stage: Stage, name: str, findings: Findings, reason: str
) -> None:
    """Add a graph that cannot be computed here for a `reason`: it fails where its content is wrong."""
    if findings.differences:
        attribution.fail_stage(stage, name, None, "; ".join(findings.differences))
    else:
        attribution.skip_stage(stage, name, None, reason)


def _add_graph_stage(
    bundle: DiagnosedBundle,
    attribution: StageAttribution,
    stage: Stage,
    graph: GraphOutputs,
    recorded: PrecisionCost | None,
    findings: Findings,
) -> None:
    """Add a graph of the bundle's precision, judged by its content and its cost; `recorded` is that at the export."""
    cost = bundle.measure_cost(graph)
    failures = (*findings.differences, *cost.failures, *_compare_with_recorded(bundle, graph, recorded))
    tolerance = cost_tolerance(bundle.manifest.precision, cost)
    attribution.add_judged_stage(stage, graph.subject, tolerance, graph.outputs, attribution.previous_outputs, failures)


def _compare_with_recorded(
    bundle: DiagnosedBundle, graph: GraphOutputs, recorded: PrecisionCost | None
) -> tuple[str, ...]:
    """Why a graph is not the one that was exported: on the samples of the export it has another SNR than recorded. A
    scale that is several times too wide shows there, where no bound for all networks could tell it from rounding.
    """
    same_samples = bundle.manifest.parity.data.sha256 == bundle.data.record.sha256
    if recorded is None or recorded.worst_snr_db is None or not (same_samples and bundle.has_own_preprocessing):
        return ()
    first = {name: array[: recorded.count] for name, array in graph.outputs.items()}
    snr_db = bundle.measure_cost(GraphOutputs(graph.subject, first)).worst_snr_db
    if snr_db is None or snr_db >= recorded.worst_snr_db - RECORDED_MARGIN_DB:
        return ()
    return (
        f"its SNR is {snr_db:.1f} dB, and was {recorded.worst_snr_db:.1f} dB on the same samples when it was exported",
    )


class _EngineRun(NamedTuple):
    """Outputs of an engine, and the tolerance for whatever runs the same engine."""

    outputs: Arrays
    tolerance: Tolerance


def _evaluate_engines(bundle: DiagnosedBundle, attribution: StageAttribution) -> list[str]:
    """Evaluate every engine that can be loaded here, and the C++ library; returns their caveats."""
    caveats: list[str] = []
    runs_by_file: dict[str, _EngineRun] = {}
    for engine, parity in _list_engines(bundle.manifest):
        findings = _audit_form(bundle, engine)
        expected = _evaluate_form(bundle, attribution, engine, parity, findings)
        caveats += findings.caveats
        try:
            loaded, outputs = bundle.run_engine(engine)
        except BackendError as error:
            attribution.skip_stage("engine", f"{engine.backend} {engine.version}", None, str(error))
            continue
        subject = GraphOutputs(f"{loaded.backend} {loaded.version}", outputs)
        tolerance = _add_engine(bundle, attribution, subject, expected)
        runs_by_file.setdefault(engine.file.path, _EngineRun(outputs, tolerance))
        caveats += loaded.caveats
    return caveats + _evaluate_cpp(bundle, attribution, runs_by_file)


def _list_engines(manifest: Manifest) -> Iterator[tuple[Engine, Parity | None]]:
    """Every engine with its recorded verdict, the primary one first."""
    yield manifest.engine, manifest.parity
    for other in manifest.extra_engines:
        yield other.engine, other.parity


def _audit_form(bundle: DiagnosedBundle, engine: Engine) -> Findings:
    """How the backend's own form of the graph, where there is one, differs from what the backend makes of the graph."""
    if not stages.is_own_form(engine, bundle.manifest.graph.file):
        return Findings()
    if bundle.graph_findings.differences:
        return Findings(caveats=(f"{engine.backend}'s form was not compared with the graph, which is damaged itself",))
    return audit_engine_form(bundle.folder, bundle.manifest, engine)


def _evaluate_form(
    bundle: DiagnosedBundle,
    attribution: StageAttribution,
    engine: Engine,
    recorded: Parity | None,
    findings: Findings,
) -> Arrays:
    """The outputs that an engine is compared with: those of the backend's own form of the graph, computed as written,
    where there is one that this machine can compute; else those of the stage before.
    """
    if not stages.is_own_form(engine, bundle.manifest.graph.file):
        return attribution.previous_outputs
    name = f"{engine.backend}'s form of {graph_name(bundle.manifest.precision)}, as written"
    try:
        outputs = bundle.run_as_written(bundle.folder / engine.file.path, name)
    except (BackendError, InputError) as error:
        _add_graph_without_outputs(attribution, "form", name, findings, error.what)
        return attribution.previous_outputs
    form_cost = None if recorded is None else recorded.form_cost
    _add_graph_stage(bundle, attribution, "form", GraphOutputs(name, outputs), form_cost, findings)
    return outputs


def _add_engine(
    bundle: DiagnosedBundle, attribution: StageAttribution, engine: GraphOutputs, expected: Arrays
) -> Tolerance:
    """Add an engine, compared with its graph; returns the tolerance."""
    precision = bundle.manifest.precision
    if precision == "fp32":
        attribution.add_stage("engine", engine.subject, bundle.fp32_tolerance, engine.outputs, expected)
        return bundle.fp32_tolerance
    compiled = GraphOutputs("its graph as written", expected)
    bound = bound_faithfulness(bundle.manifest_oracle_outputs, compiled.outputs, bundle.kinds)
    faithfulness = compare_with_graph(engine.outputs, compiled, bundle.kinds, bound, precision)
    add_engine_stage(attribution, engine, compiled, faithfulness)
    return engine_tolerance(faithfulness)


def _evaluate_cpp(
    bundle: DiagnosedBundle, attribution: StageAttribution, runs_by_file: Mapping[str, _EngineRun]
) -> list[str]:
    """Compare the C++ library with the same engine in Python where that ran, else with the first engine that did."""
    library = "the C++ library"
    try:
        program = cpp_programs.build_programs(cpp_programs.BENCH, bundle.progress) / "deploykit-answer"
    except BackendError as error:
        attribution.skip_stage("C++", library, None, str(error))
        return []
    dtypes = {spec.name: spec.dtype for spec in bundle.manifest.inputs}
    names = [spec.name for spec in bundle.manifest.outputs]
    with bundle.progress.step(f"running {library}", bundle.data.length) as advance:
        batches = bundle.data.batches(bundle.manifest.model, advance)
        inputs = (
            {name: batch.inputs[name].astype(dtype, copy=False) for name, dtype in dtypes.items()} for batch in batches
        )
        try:
            run, outputs = cpp.run_cpp_program(program, bundle.folder, inputs, bundle.data.size, list(dtypes), names)
        except BackendError as error:
            attribution.skip_stage("C++", library, None, str(error))
            return []
        except DeploykitError as error:
            attribution.fail_stage("C++", library, None, str(error).rstrip("."))
            return []
    unmatched = _EngineRun(attribution.previous_outputs, bundle.manifest.parity.tolerance)
    expected = runs_by_file.get(run.file, next(iter(runs_by_file.values()), unmatched))
    name = f"{run.runtime} in C++, {run.file}"
    attribution.add_stage("C++", name, expected.tolerance, outputs, expected.outputs)
    preprocessed = [FROM_PYTHON] if bundle.manifest.model.preprocessing is not None else []
    return [*preprocessed, *(f"the C++ library skipped {reason}" for reason in run.skipped_engines)]


def rank_layer_errors(bundle: DiagnosedBundle) -> LayerErrors:
    """The error of every tensor that survives fusion against the FP32 graph, and the part that its own layer added.

    UsageError as from `require_layers`.
    """
    bundle.require_layers()
    manifest = bundle.manifest
    graph = ir.load(bundle.fp32_graph).graph
    boundaries = fusion_boundaries(graph, {node.name or "" for node in find_weighted_layers(graph)})
    present = {output.name for node in ir.load(bundle.precision_graph).graph for output in node.outputs}
    tensors = [boundary.tensor for boundary in boundaries if boundary.tensor in present]
    reference, backend = reference_backend(), _first_usable_backend(manifest)
    identity = "ONNX Runtime, as it is written," if backend is None else backend.identity
    with _compiled_runner(backend, bundle.precision_graph, _copy_graph) as runner:
        outputs = bundle.run_samples(runner, f"running {identity}")
    add_outputs, instrumented_batches = partial(add_graph_outputs, tensors=tensors), list[Arrays]()
    with (
        _compiled_runner(reference, bundle.fp32_graph, add_outputs) as exported,
        _compiled_runner(backend, bundle.precision_graph, add_outputs) as instrumented,
        _compiled_runner(reference, bundle.fp32_graph, partial(split_at, tensors=tensors)) as pieces,
    ):
        powers = error_power(_run_side_by_side(bundle, exported, instrumented, pieces, instrumented_batches))
    instrumented_outputs = {name: np.concatenate([batch[name] for batch in instrumented_batches]) for name in outputs}
    ranking = rank_layers(boundaries, powers, {row.name: row for row in read_layer_rows(bundle.fp32_graph)})
    caveats = [
        *untrained_caveats(manifest.weights),
        f"tensors are compared between {identity} and the FP32 graph in {reference.identity}",
    ]
    if len(ranking) < len(boundaries):
        missing = len(boundaries) - len(ranking)
        caveats.append(f"{missing} of {len(boundaries)} tensors of the FP32 graph have no counterpart in the bundle's")
    if (shift_db := _output_shift_db(outputs, instrumented_outputs)) is not None:
        caveats.append(
            f"reading the tensors changes the output (SNR {shift_db:.1f} dB against the run without): the compiler "
            "then fuses differently, and errors smaller than that are not the engine's own"
        )
    return LayerErrors(ranking, bundle.data.record, shift_db, tuple(caveats))


def _first_usable_backend(manifest: Manifest) -> Backend | None:
    """The backend of the primary engine, or of the next one that can build and run here; None: there is none."""
    for engine in manifest.engines:
        if is_installed(engine.backend):
            backend = create_backend(engine.backend, manifest.request.build_options)
            if backend.unavailable_reason() is None and backend.cannot_build_reason() is None:
                return backend
    return None


@contextmanager
def _compiled_runner(
    backend: Backend | None, graph: Path, write_variant: Callable[[Path, Path], None]
) -> Iterator[Runner]:
    """A runner of the variant of a graph that `write_variant` writes, compiled by `backend`, or computed as written."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / graph.name
        write_variant(graph, file)
        if backend is None:
            with open_node_by_node(file) as runner:
                yield runner
        else:
            yield CastingRunner(backend.load(backend.compile(file, file.parent), file.parent))


def _copy_graph(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    data = source.with_name(f"{source.name}.data")
    if data.is_file():
        shutil.copyfile(data, target.with_name(data.name))


def _run_side_by_side(
    bundle: DiagnosedBundle, exported: Runner, instrumented: Runner, pieces: Runner, output_batches: list[Arrays]
) -> Iterator[tuple[Arrays, Arrays, Arrays]]:
    """The tensors of all three, batch by batch; final outputs of `instrumented` are appended to `output_batches`."""
    tensor_of_input = {input_for(spec.name): spec.name for spec in instrumented.outputs}
    input_names = [spec.name for spec in pieces.inputs]
    with bundle.progress.step("comparing its layers", bundle.data.length) as advance:
        for batch in bundle.data.batches(bundle.manifest.model, advance):
            tensors = instrumented.run(batch.inputs)
            output_batches.append({spec.name: np.array(tensors[spec.name]) for spec in bundle.manifest.outputs})
            piece_inputs = {
                name: tensors[tensor_of_input[name]] if name in tensor_of_input else batch.inputs[name]
                for name in input_names
            }
            yield exported.run(batch.inputs), tensors, pieces.run(piece_inputs)


def _output_shift_db(outputs: Arrays, instrumented: Arrays) -> float | None:
    """SNR of the worst output with all tensors read against that without; None: they are bitwise equal."""
    snrs_db = [snr_db(outputs[name], instrumented[name]) for name in outputs]
    return min((snr for snr in snrs_db if snr is not None), default=None)


def find_worst_samples(bundle: DiagnosedBundle, count: int) -> SampleDifferences:
    """The changed predictions by class, where the samples have labels, and the `count` samples that differ most between
    the reference and the primary engine, or the next one that runs here.

    UsageError as from `require_classes`, InputError for labels outside the network's classes.
    """
    bundle.require_classes()
    manifest = bundle.manifest
    name = manifest.outputs[0].name
    reference, candidate = bundle.oracle_outputs[name], bundle.engine_outputs[name]
    names = _class_names(bundle, reference.shape[1])
    _require_known_labels(bundle.labels, len(names))
    divergences = by_sample.sample_divergences(reference, candidate, manifest.model.head)
    worst = sorted(range(len(divergences)), key=lambda index: -divergences[index])[:count]
    return SampleDifferences(
        by_sample.find_class_changes(reference, candidate, bundle.labels, names),
        tuple(
            _describe_sample(bundle, index, names, divergences[index], reference[index], candidate[index])
            for index in worst
        ),
        bundle.data.record,
    )


def _describe_sample(
    bundle: DiagnosedBundle,
    index: int,
    names: Sequence[str],
    divergence: float,
    reference: NDArray[Any],
    candidate: NDArray[Any],
) -> WorstSample:
    """One sample; `reference` and `candidate` are its class scores."""
    sample = bundle.data.samples[index]
    return WorstSample(
        sample.name,
        None if sample.label is None else names[sample.label],
        names[int(reference.argmax())],
        names[int(candidate.argmax())],
        divergence,
        "" if isinstance(sample, TensorSample) else by_sample.encode_thumbnail(sample.image),
    )


def _class_names(bundle: DiagnosedBundle, count: int) -> tuple[str, ...]:
    """The bundle's labels; a class without a label is named by its number."""
    file = bundle.manifest.labels
    labels = [] if file is None else (bundle.folder / file).read_text(encoding="utf-8").splitlines()
    return tuple(labels[index] if index < len(labels) else f"class {index}" for index in range(count))


def _require_known_labels(labels: Sequence[int | None], count: int) -> None:
    """InputError for labels outside the network's classes."""
    present = [label for label in labels if label is not None]
    if present and not 0 <= min(present) <= max(present) < count:
        raise InputError(
            f"the data has labels from {min(present)} to {max(present)}, but the network has {count} classes.",
            "Give data with the classes that the network was trained for.",
        )


def _preprocessing_differences(bundle: DiagnosedBundle) -> list[str]:
    """Fields in which the manifest's preprocessing differs from the network's own."""
    packed, own = bundle.manifest.model.preprocessing, bundle.network.model.preprocessing
    if packed is None or own is None:
        return [] if packed == own else ["images become inputs in a different way than the network's own"]
    packed_fields, own_fields = msgspec.structs.asdict(packed), msgspec.structs.asdict(own)
    return [
        f"the manifest's preprocessing has {name} {_format_field(packed_fields[name])}, "
        f"the network's own {_format_field(own_fields[name])}"
        for name in own_fields
        if packed_fields[name] != own_fields[name]
    ]


def _format_field(field: object) -> str:
    return ", ".join(f"{number:g}" for number in field) if isinstance(field, tuple) else f"{field}"
