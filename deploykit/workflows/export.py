"""The export workflow, from a network to a verified bundle. Only this file knows the order of the stages:

    export graph                    trace the network to ONNX, rewrite the graph, run it at several batch sizes
    run the PyTorch FP32 reference  compute the outputs that every engine is compared with
    select precision                cast to FP16/BF16, or calibrate and quantize to INT8, on samples of their own
    audit executed precision        read back which arithmetic the engine really uses
    evaluate parity                 compare the engine with its graph, and the graph with the reference
    measure latency                 on this machine, with FP32 in alternation
    build extra engines             for other backends, evaluated likewise where this machine can run them
    write bundle                    whole and with its report, or not at all

Every stage takes frozen values and files and returns frozen values and files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from deploykit.backends import create_backend
from deploykit.backends.choice import reference_backend
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import GraphRecord, Manifest
from deploykit.bundle.write import require_replaceable, write_bundle
from deploykit.core.calibration.batches import SampleBatches, open_data, require_known_data
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.files import find_damage
from deploykit.core.provenance import collect_provenance
from deploykit.core.values import (
    CLASSIFIER_HEADS,
    Backend,
    ExportRequest,
    MatrixRow,
    Parity,
    PrecisionReceipt,
    Progress,
    Records,
    SecondaryEngine,
    Stages,
)
from deploykit.export.networks import Network, open_network, sources
from deploykit.workflows import cache_keys, reporting, stages
from deploykit.workflows.fp32_beside import TimedEngine, time_engine
from deploykit.workflows.precision import PrecisionResult, select_precision
from deploykit.workflows.product_times import time_floating_products
from deploykit.workflows.stages import BuiltEngine, Fp32Graph, Session


class Outcome(NamedTuple):
    """The result of an export: the bundle's manifest, its folder, and whether the bundle existed already."""

    manifest: Manifest
    folder: Path
    up_to_date: bool


def export(request: ExportRequest, destination: Path, force: bool, progress: Progress) -> Outcome:
    """Export a network as a verified bundle at `destination`.

    A bundle that fails parity is written too, and its manifest records the failures: check `manifest.parity.passed`.
    """
    _require_known_names(request)
    key = cache_keys.bundle_key(request)
    if (manifest := _read_up_to_date(destination, key)) is not None:
        return Outcome(manifest, destination, up_to_date=True)
    require_replaceable(destination, force)

    state = build_state(request, open_network(request, create_backend), progress)
    state = state._replace(primary=_time_products(state.session, state.primary))
    timed = time_engine(state.session, state.selected.graph, state.primary.built)
    extra = (*_build_extra_engines(state), *_build_optional_engines(state))
    manifest = _write_bundle(destination, key, state, timed, extra)
    return Outcome(manifest, destination, up_to_date=False)


def evaluate_matrix(requests: Sequence[ExportRequest], progress: Progress) -> Iterator[MatrixRow]:
    """Evaluate the parity of each request, yielding a row as soon as it is known. No bundle is written, no latency
    measured.
    """
    for request in requests:
        _require_known_names(request)
    network: Network | None = None
    for previous, request in zip((None, *requests), requests, strict=False):
        if network is None or previous is None or cache_keys.graph_key(previous) != cache_keys.graph_key(request):
            network = open_network(request, create_backend)  # frees the memory of the previous network
        state = build_state(request, network, progress)
        yield MatrixRow(request.model, request.precision, request.target, state.primary.parity, state.primary.receipt)


class JudgedEngine(NamedTuple):
    """An engine, the verdict on it, the verdict stage by stage, and what it executes."""

    built: BuiltEngine
    parity: Parity
    by_stage: Stages
    receipt: PrecisionReceipt


class ExportState(NamedTuple):
    """What an export has produced once the primary engine is judged."""

    session: Session
    selected: PrecisionResult
    primary: JudgedEngine


def build_state(request: ExportRequest, network: Network, progress: Progress) -> ExportState:
    """Run the stages from the network to the verdict on the primary engine, which every verb shares."""
    graph = stages.export_graph(request, network, reference_backend(), progress)
    batch, inputs = request.options.batch, graph.tensor_inputs
    data = open_data(request.data, "evaluation", request.samples, batch, inputs, note=progress.note)
    oracle = stages.run_oracle(network, graph, data, progress)
    backend = create_backend(request.target, request.build_options)
    session = Session(request, graph, oracle, data, reference_backend(), backend, progress)

    selected = select_precision(session)
    session, primary = _choose_engine(session, selected)
    return ExportState(session, selected, primary)


def _choose_engine(session: Session, selected: PrecisionResult) -> tuple[Session, JudgedEngine]:
    """The engine of the requested backend; where that does not compute its graph, of the first fallback that does."""
    first = _judge_engine(session, selected)
    if is_faithful(first.parity):
        return session, first
    faults = [_describe_fault(session, first)]
    for name in session.request.fallback_targets:
        other = session._replace(backend=create_backend(name, session.request.build_options))
        try:
            judged = _judge_engine(other, selected)
        except (InputError, BackendError) as error:
            session.progress.note(f"{name} cannot take its place: {error.what}")
            continue
        if is_faithful(judged.parity):
            for fault in faults:
                session.progress.note(fault)
            parity = msgspec.structs.replace(judged.parity, caveats=(*judged.parity.caveats, *faults))
            return other, judged._replace(parity=parity)
        faults.append(_describe_fault(other, judged))
    return session, first


def is_faithful(parity: Parity) -> bool:
    """Whether an engine computes its graph."""
    return parity.faithfulness is None or not parity.faithfulness.failures


def _describe_fault(session: Session, judged: JudgedEngine) -> str:
    faithfulness = judged.parity.faithfulness
    assert faithfulness is not None
    return f"{session.backend.identity} was not chosen: {faithfulness.failures[0]}"


def _judge_engine(session: Session, selected: PrecisionResult) -> JudgedEngine:
    """Compile the graph for the session's backend, read what the engine executes, and judge it."""
    built = stages.compile_engine(session, selected.graph)
    receipt = stages.audit_precision(session, selected.graph, built)
    parity, by_stage = stages.evaluate_parity(session, selected.graph, built)
    parity = msgspec.structs.replace(parity, caveats=(*parity.caveats, *selected.caveats))
    return JudgedEngine(built, parity, by_stage, receipt)


def _time_products(session: Session, judged: JudgedEngine) -> JudgedEngine:
    """The same, with the time of each product that an INT8 network leaves in floating point, measured in this run."""
    built = judged.built
    receipt = time_floating_products(session.backend, built.engine, built.folder, judged.receipt)
    return judged._replace(receipt=receipt)


class ExtraEngine(NamedTuple):
    """An engine besides the primary one, and the folder that holds it."""

    engine: SecondaryEngine
    folder: Path


def _build_extra_engines(state: ExportState) -> Iterator[ExtraEngine]:
    """Engines of the backends that the request names besides the primary one."""
    request = state.session.request
    for name in request.extra_engines:
        yield _build_extra_engine(state, create_backend(name, request.build_options))


def _build_optional_engines(state: ExportState) -> Iterator[ExtraEngine]:
    """Engines of the optional backends; one that cannot build the graph is only noted."""
    request = state.session.request
    for name in request.optional_engines:
        if name == state.session.backend.name:
            continue  # a fallback: it is the primary engine
        try:
            yield _build_extra_engine(state, create_backend(name, request.build_options))
        except (InputError, BackendError) as error:
            state.session.progress.note(f"The bundle has no {name} engine: {error.what}")


def _build_extra_engine(state: ExportState, backend: Backend) -> ExtraEngine:
    """The same graph compiled by another backend; judged and measured where this machine can run it."""
    session, graph = state.session._replace(backend=backend), state.selected.graph
    if (reason := backend.unavailable_reason()) is not None:
        built = stages.compile_engine(session, graph)
        return ExtraEngine(SecondaryEngine(built.engine, reason), built.folder)
    built, parity, _, receipt = _time_products(session, _judge_engine(session, state.selected))
    timed = time_engine(session, graph, built)
    latency = timed.measured.latency
    secondary = SecondaryEngine(built.engine, None, parity, receipt, latency, fp32_latency=timed.fp32)
    return ExtraEngine(secondary, built.folder)


def _write_bundle(
    destination: Path, key: str, state: ExportState, timed: TimedEngine, extra: Sequence[ExtraEngine]
) -> Manifest:
    """Write the bundle with its records and its report; returns the manifest with the digests of all files."""
    session, records = state.session, Records(timed.measured, state.primary.by_stage)
    with session.progress.step("writing the bundle"):
        return write_bundle(
            destination,
            _compose_manifest(key, state, timed, extra),
            state.primary.built.folder,
            session.oracle.folder,
            _class_labels(session.graph, session.data),
            tuple(engine.folder for engine in extra),
            reporting.encode_records(records),
            reporting.report_renderer(destination, records),
        )


def _compose_manifest(key: str, state: ExportState, timed: TimedEngine, extra: Sequence[ExtraEngine]) -> Manifest:
    session, graph, engine = state.session, state.selected.graph, state.primary.built.engine
    exported, conversion = session.graph.exported, graph.conversion
    return Manifest(
        schema_version=manifests.SCHEMA_VERSION,
        request=session.request,
        key=key,
        model=session.graph.model,
        weights=exported.weights,
        precision=graph.precision,
        inputs=engine.inputs,
        outputs=engine.outputs,
        batch=exported.batch,
        graph=GraphRecord(
            file=graph.file,
            precision=graph.precision,
            opset=exported.opset,
            exporter=exported.exporter,
            fallback_reason=exported.fallback_reason,
            rewrites=exported.rewrites,
            fp32_nodes=conversion.fp32_nodes if conversion else (),
            range_data=graph.range_data,
            placement=conversion.placement if conversion else None,
            recipe=conversion.recipe if conversion else None,
        ),
        calibration=state.selected.calibration,
        file_ranges=state.selected.file_ranges,
        budget=state.selected.budget,
        receipt=state.primary.receipt,
        labels=None,
        engine=engine,
        extra_engines=tuple(other.engine for other in extra),
        golden=session.oracle.golden,
        parity=state.primary.parity,
        latency=timed.measured.latency,
        fp32_latency=timed.fp32,
        provenance=collect_provenance(),
        files={},
    )


def _require_known_names(request: ExportRequest) -> None:
    """InputError for an unknown network or data set, before any long work begins."""
    sources.require_known_model(request.model)
    for name in (request.data, request.calibration.data if request.calibration is not None else None):
        require_known_data(name)


def _read_up_to_date(destination: Path, key: str) -> Manifest | None:
    """The manifest of an undamaged bundle that was exported with the same key; None where there is none."""
    try:
        manifest = manifests.read_manifest(destination)
    except DeploykitError:
        return None
    damaged = any(find_damage(destination, file) is not None for file in manifest.files.values())
    return manifest if manifest.key == key and not damaged else None


def _class_labels(graph: Fp32Graph, data: SampleBatches) -> tuple[str, ...]:
    """Class names of the weights, else of the evaluation set, where their number is the network's number of classes."""
    names = graph.classes or data.samples.classes
    matches = graph.model.head in CLASSIFIER_HEADS and len(names) == graph.exported.outputs[0].shape[1]
    return names if matches else ()
