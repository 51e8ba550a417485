"""The story, told once: a network becomes a graph, is typed, judged, measured and packed.

    graph      the network traced to ONNX, rewritten, and run at several batch sizes
    answers    what eager PyTorch says to the samples that everything is judged on
    chosen     the graph at the precision asked for: typed, or calibrated and quantized, on other samples
    verdict    the answers of the graph, before and behind the typing, beside PyTorch's
    receipt    the arithmetic that the backend really used
    latency    measured on this machine
    beside     engines of other backends, judged likewise where this machine can run them
    bundle     written whole, with its report, or not at all

Every step takes frozen values and files and gives frozen values and files. Only this file knows their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from deploykit.backends import backend as find_backend
from deploykit.backends.choice import reference
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import GraphRecord, Manifest
from deploykit.bundle.write import may_replace, write
from deploykit.core.calibration.batches import Data, open_data
from deploykit.core.calibration.batches import known as known_data
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.files import damage
from deploykit.core.provenance import provenance
from deploykit.core.values import (
    CLASSES,
    Backend,
    Beside,
    ExportRequest,
    Latency,
    MatrixRow,
    PrecisionReceipt,
    Progress,
    Records,
    Stages,
)
from deploykit.evaluate.parity.stages import at_export
from deploykit.export.networks import Network, open_network, sources
from deploykit.workflows import cache_keys, precision, reporting
from deploykit.workflows import stages as steps


class Outcome(NamedTuple):
    """A finished export: the bundle's manifest, where it lies, and whether it lay there already."""

    manifest: Manifest
    folder: Path
    up_to_date: bool


def export(request: ExportRequest, destination: Path, force: bool, progress: Progress) -> Outcome:
    """From a name to a checked bundle at `destination`.

    A bundle whose parity failed is written too, and its manifest says so: look at `manifest.parity.passed`.
    """
    _known(request)
    key = cache_keys.bundle(request)
    if (present := _up_to_date(destination, key)) is not None:
        return Outcome(present, destination, up_to_date=True)
    may_replace(destination, force)

    made = _made(request, open_network(request, find_backend), progress)
    backend = find_backend(request.target, request.build_options)
    measured = steps.measure_latency(made.chosen.typed, made.verdict, made.answers, backend, progress)
    others = [_other(made, find_backend(name, request.build_options), progress) for name in request.beside]
    others += _taken(request, made, progress)
    manifest = _manifest(request, key, made, measured.latency, tuple(other.beside for other in others))
    with progress.step("writing the bundle"):
        folders = made.verdict.built.folder, made.answers.folder
        labels, known = _labels(made.graph, made.data), Records(measured, made.stages)
        engines = tuple(other.folder for other in others)
        further, page = reporting.files(known), reporting.pager(destination, known)
        manifest = write(destination, manifest, *folders, labels, engines, further, page)
    return Outcome(manifest, destination, up_to_date=False)


def matrix(requests: Sequence[ExportRequest], progress: Progress) -> Iterator[MatrixRow]:
    """Parity of each request, a row as soon as it is known; nothing is packed or measured."""
    for request in requests:
        _known(request)
    source: Network | None = None
    for before, request in zip((None, *requests), requests, strict=False):
        if source is None or before is None or cache_keys.graph(before) != cache_keys.graph(request):
            source = open_network(request, find_backend)  # the one before goes, and its memory with it
        made = _made(request, source, progress)
        yield MatrixRow(request.model, request.precision, request.target, made.verdict.parity, made.receipt)


class Made(NamedTuple):
    """All that is known of a graph once it was judged."""

    data: Data
    graph: steps.Graph
    answers: steps.Answers
    chosen: precision.PrecisionResult
    verdict: steps.Verdict
    stages: Stages
    """The same by stage."""
    receipt: PrecisionReceipt


def _known(request: ExportRequest) -> None:
    """Refuse names that nothing has, before long work begins."""
    sources.known(request.model)
    for name in (request.data, request.calibration.data if request.calibration is not None else None):
        known_data(name)


def _made(request: ExportRequest, source: Network, progress: Progress) -> Made:
    """From the network to a verdict: the part of the story that every verb shares."""
    backend = find_backend(request.target, request.build_options)
    graph = steps.export_graph(request, source, reference(), progress)
    data = open_data(request.data, "evaluation", request.samples, request.options.batch, graph.taken)
    answers = steps.run_oracle(source, graph, data, progress)
    chosen = precision.select_precision(request, graph, answers, data, reference(), backend, progress)
    verdict, stages = _verdict(graph, chosen, answers, backend, data, progress)
    ran = steps.audit_precision(chosen.typed, verdict, backend, progress)
    return Made(data, graph, answers, chosen, verdict, stages, ran)


class Other(NamedTuple):
    """An engine beside the one that was judged first, and the folder that it is in."""

    beside: Beside
    folder: Path


def _other(made: Made, backend: Backend, progress: Progress) -> Other:
    """The same graph as another backend's engine: judged and measured too, or said why not."""
    built = steps.compile_engine(made.chosen.typed, backend, progress)
    if (obstacle := backend.obstacle()) is not None:
        return Other(Beside(built.engine, obstacle), built.folder)
    typed = made.chosen.typed
    verdict = steps.evaluate_parity(made.graph, typed, made.answers, backend, made.data, progress)
    ran = steps.audit_precision(typed, verdict, backend, progress)
    measured = steps.measure_latency(typed, verdict, made.answers, backend, progress)
    return Other(Beside(built.engine, None, verdict.parity, ran, measured.latency), built.folder)


def _taken(request: ExportRequest, made: Made, progress: Progress) -> Iterator[Other]:
    """Engines of the backends that nobody asked for by name, and a note for each that does not take the graph."""
    for name in request.offered:
        try:
            yield _other(made, find_backend(name, request.build_options), progress)
        except (InputError, BackendError) as error:
            progress.note(f"The bundle has no engine of {name}: {error.what}")


def _verdict(
    graph: steps.Graph,
    chosen: precision.PrecisionResult,
    answers: steps.Answers,
    backend: Backend,
    data: Data,
    progress: Progress,
) -> tuple[steps.Verdict, Stages]:
    """The verdict on the typed graph. The exported one is judged before it, at FP32's narrow bounds: an error that FP16
    could hide among its roundings shows there, and fails both.
    """
    exported = steps.evaluate_parity(graph, steps.as_fp32(graph), answers, backend, data, progress).parity
    verdict = steps.evaluate_parity(graph, chosen.typed, answers, backend, data, progress)
    statements = (*verdict.parity.statements, *chosen.statements)
    parity = msgspec.structs.replace(verdict.parity, statements=statements)
    if chosen.typed.precision != "fp32" and not exported.passed:
        failures = tuple(f"before typing, at fp32: {failure}" for failure in exported.failures)
        parity = msgspec.structs.replace(parity, passed=False, failures=failures + parity.failures)
    stages = at_export(exported, verdict.parity, chosen.typed.precision, backend.identity)
    return verdict._replace(parity=parity), stages


def _manifest(request: ExportRequest, key: str, made: Made, latency: Latency, beside: tuple[Beside, ...]) -> Manifest:
    exported, typed, engine = made.graph.exported, made.chosen.typed, made.verdict.built.engine
    return Manifest(
        schema_version=manifests.SCHEMA_VERSION,
        request=request,
        key=key,
        model=made.graph.model,
        weights=exported.weights,
        precision=typed.precision,
        inputs=engine.inputs,
        outputs=engine.outputs,
        batch=exported.batch,
        graph=GraphRecord(
            file=typed.file,
            precision=typed.precision,
            opset=exported.opset,
            exporter=exported.exporter,
            fallback=exported.fallback,
            rewrites=exported.rewrites,
            kept_fp32=typed.graph.kept if typed.graph else (),
            range_data=typed.range_data,
            placement=typed.graph.placement if typed.graph else None,
            recipe=typed.graph.recipe if typed.graph else None,
        ),
        calibration=made.chosen.calibration,
        budget=made.chosen.budget,
        receipt=made.receipt,
        labels=None,
        engine=engine,
        beside=beside,
        golden=made.answers.golden,
        parity=made.verdict.parity,
        latency=latency,
        provenance=provenance(),
        files={},
    )


def _up_to_date(destination: Path, key: str) -> Manifest | None:
    """The manifest of a bundle that already answers the request, file by file; None where there is none such."""
    try:
        manifest = manifests.read(destination)
    except DeploykitError:
        return None
    damaged = any(damage(destination, file) is not None for file in manifest.files.values())
    return manifest if manifest.key == key and not damaged else None


def _labels(graph: steps.Graph, data: Data) -> tuple[str, ...]:
    """Class names: the weights' own, else the evaluation set's, where there are as many as the network has classes."""
    names = graph.classes or data.samples.classes
    tells = graph.model.head in CLASSES and len(names) == graph.exported.outputs[0].shape[1]
    return names if tells else ()
