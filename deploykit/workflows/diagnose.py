"""Find where a bundle's error comes from: at which stage, in which layer, on which samples.

    preprocessing   the reference on inputs from the manifest's preprocessing, against the network's own
    export          the FP32 graph, exported again or from the cache; for an FP32 bundle its own
    cast or Q/DQ    the bundle's graph at its precision, computed as written, without a compiler
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
import onnx_ir as ir

from deploykit.backends import create_backend, is_installed
from deploykit.backends.adapters import CastingRunner
from deploykit.backends.choice import reference_backend
from deploykit.backends.weighted_layers import find_weighted_layers
from deploykit.bundle.manifest import Manifest
from deploykit.core import cpp_programs
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.values import (
    Arrays,
    Backend,
    Engine,
    LayerErrors,
    Parity,
    PrecisionCost,
    Runner,
    SampleDifferences,
    Stage,
    Stages,
    TensorSample,
    Tolerance,
    WorstSample,
)
from deploykit.evaluate.parity import cpp_outputs as cpp
from deploykit.evaluate.parity import samples as by_sample
from deploykit.evaluate.parity.compare import untrained_caveats
from deploykit.evaluate.parity.faithfulness import bound_faithfulness, compare_with_graph
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.layer_errors import error_power, fusion_boundaries, input_for, rank_layers, split_at
from deploykit.evaluate.parity.metrics import snr_db
from deploykit.evaluate.parity.stages import (
    StageAttribution,
    add_engine_stage,
    conversion_stage,
    cost_tolerance,
    engine_tolerance,
    graph_name,
)
from deploykit.export.layer_rows import read_layer_rows
from deploykit.quantize.calibrate import add_graph_outputs
from deploykit.workflows import stages
from deploykit.workflows.as_written import open_node_by_node
from deploykit.workflows.bundle_audit import Findings, audit_engine_form
from deploykit.workflows.diagnosed_bundle import DiagnosedBundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORDED_MARGIN_DB: Final = 1.0
"""SNR by which a graph computed as written may differ from that of its export on the same samples: another version of
the runtime that computes it adds up in another order.
"""

FROM_PYTHON: Final = "the C++ library received inputs preprocessed in Python: its own preprocessing was not tested"


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
