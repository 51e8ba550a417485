"""The story, told once: a network becomes a graph, is typed, judged, measured and packed.

    graph      the network traced to ONNX, rewritten, and run at several batch sizes
    answers    what eager PyTorch says to the samples that everything is judged on
    chosen     the graph at the precision asked for: typed, or calibrated and quantized, on other samples
    verdict    the answers of the graph, before and behind the typing, beside PyTorch's
    receipt    the arithmetic that the backend really used
    latency    measured on this machine
    beside     engines of other backends, judged likewise where this machine can run them
    bundle     written whole, or not at all

Every step takes frozen values and files and gives frozen values and files. Only this file knows their order.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

import calibration
from deploykit import keys, precision, steps
from deploykit.backends import backend as find_backend
from deploykit.backends.choice import reference
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import GraphRecord, Manifest
from deploykit.bundle.verify import check_files, golden
from deploykit.bundle.write import add, may_replace, write
from deploykit.data import Data, as_input, open_data
from deploykit.errors import BackendError, DeploykitError, InputError, UsageError
from deploykit.export import catalog, source
from deploykit.export.layers import layers
from deploykit.files import damage
from deploykit.network import Network
from deploykit.parity.compare import compare
from deploykit.parity.tolerances import for_precision
from deploykit.provenance import provenance
from deploykit.quantize.receipt import receipt
from deploykit.values import (
    Backend,
    Batch,
    Beside,
    BuildOptions,
    Engine,
    EngineAccount,
    ExportRequest,
    Latency,
    LayerRow,
    MatrixRow,
    Parity,
    PrecisionReceipt,
    Prediction,
    Progress,
    Runner,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Outcome(NamedTuple):
    """A finished export: the bundle's manifest, where it lies, and whether it lay there already."""

    manifest: Manifest
    folder: Path
    up_to_date: bool


def export(request: ExportRequest, destination: Path, force: bool, progress: Progress) -> Outcome:
    """From a name to a checked bundle at `destination`.

    A bundle whose parity failed is written too, and its manifest says so: look at `manifest.parity.passed`.
    """
    catalog.known(request.model)
    key = keys.bundle(request)
    if (present := _up_to_date(destination, key)) is not None:
        return Outcome(present, destination, up_to_date=True)
    may_replace(destination, force)

    made = _made(request, Network(request), progress)
    backend = _backend(request, request.target)
    latency = steps.measured(made.chosen.typed, made.verdict, made.answers, backend, progress)
    others = [_other(made, _backend(request, name), progress) for name in request.beside]
    others += _taken(request, made, progress)
    manifest = _manifest(request, key, made, latency, tuple(other.beside for other in others))
    with progress.step("writing the bundle"):
        folders = made.verdict.built.folder, made.answers.folder
        labels = _labels(made.graph, made.data)
        manifest = write(destination, manifest, *folders, labels, tuple(other.folder for other in others))
    return Outcome(manifest, destination, up_to_date=False)


def matrix(requests: Sequence[ExportRequest], progress: Progress) -> Iterator[MatrixRow]:
    """Parity of each request, a row as soon as it is known; nothing is packed or measured."""
    for request in requests:
        catalog.known(request.model)
    network: Network | None = None
    for before, request in zip((None, *requests), requests, strict=False):
        if network is None or before is None or keys.graph(before) != keys.graph(request):
            network = Network(request)  # the one before goes, and its memory with it
        made = _made(request, network, progress)
        yield MatrixRow(request.model, request.precision, request.target, made.verdict.parity, made.receipt)


class Made(NamedTuple):
    """All that is known of a graph once it was judged."""

    data: Data
    graph: steps.Graph
    answers: steps.Answers
    chosen: precision.Chosen
    verdict: steps.Verdict
    receipt: PrecisionReceipt


def _made(request: ExportRequest, network: Network, progress: Progress) -> Made:
    """From the network to a verdict: the part of the story that every verb shares."""
    backend = _backend(request, request.target)
    data = open_data(request.data, "evaluation", request.samples, request.options.batch)
    graph = steps.exported(request, network, reference(), progress)
    answers = steps.answered(network, graph, data, progress)
    chosen = precision.chosen(request, graph, answers, data, reference(), backend, progress)
    verdict = _verdict(graph, chosen, answers, backend, data, progress)
    ran = steps.receipted(chosen.typed, verdict, backend, progress)
    return Made(data, graph, answers, chosen, verdict, ran)


class Other(NamedTuple):
    """An engine beside the one that was judged first, and the folder that it is in."""

    beside: Beside
    folder: Path


def _other(made: Made, backend: Backend, progress: Progress) -> Other:
    """The same graph as another backend's engine: judged and measured too, or said why not."""
    built = steps.compiled(made.chosen.typed, backend, progress)
    if (obstacle := backend.obstacle()) is not None:
        return Other(Beside(built.engine, obstacle), built.folder)
    typed = made.chosen.typed
    verdict = steps.judged(made.graph, typed, made.answers, backend, made.data, progress)
    ran = steps.receipted(typed, verdict, backend, progress)
    latency = steps.measured(typed, verdict, made.answers, backend, progress)
    return Other(Beside(built.engine, None, verdict.parity, ran, latency), built.folder)


def _taken(request: ExportRequest, made: Made, progress: Progress) -> Iterator[Other]:
    """Engines of the backends that nobody asked for by name, and a note for each that does not take the graph."""
    for name in request.offered:
        try:
            yield _other(made, _backend(request, name), progress)
        except (InputError, BackendError) as error:
            progress.note(f"The bundle has no engine of {name}: {error.what}")


def _backend(request: ExportRequest, name: str) -> Backend:
    """The backend of that name, compiling for the batch sizes that the graph is exported for."""
    return find_backend(name, msgspec.structs.replace(request.build, batch=request.options.batch))


def compile_for(folder: Path, name: str, options: BuildOptions, progress: Progress) -> tuple[Manifest, Beside]:
    """The manifest of a bundle to which an engine of that backend was added, and that engine, built on this machine
    from the bundle's own graph.

    Where this machine can run it, it answers the golden vectors before it is packed. An engine with the same tag is
    replaced; everything else in the bundle stays as it is.
    """
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    backend = find_backend(name, msgspec.structs.replace(options, batch=manifest.batch))
    judged = manifest.engine
    if judged.build is None and (judged.backend, judged.version) == (backend.name, backend.version):
        raise InputError(
            f"{name} {judged.version} is the engine that the bundle was judged by.", "Compile for another."
        )
    with tempfile.TemporaryDirectory() as elsewhere:
        copied = Path(elsewhere) / "bundle"
        shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("engines"))
        with progress.step(f"compiling for {name}"):
            engine = backend.compile(copied / manifest.graph.file, copied, progress)
        obstacle = backend.obstacle()
        if obstacle is not None:
            beside = Beside(engine, obstacle)
        else:
            with progress.step("answering the golden vectors"):
                parity = _self_tested(folder, manifest, engine, steps.Fitted(backend.load(engine, copied)))
            executed = backend.executed(engine, copied)
            beside = Beside(engine, None, parity, receipt(copied / manifest.graph.file, executed, name, engine.version))
        complete = add(folder, manifest, beside, copied)
        return complete, complete.beside[-1]


def recheck(folder: Path, data: str | None, samples: int | None, weights: str | None, progress: Progress) -> Manifest:
    """A bundle's manifest with its parity judged anew: its own graph against eager PyTorch on the samples asked for."""
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    asked = manifest.request
    origin = asked.weights if weights is None else source.parse_weights(weights, asked.weights.seed)
    network = Network(msgspec.structs.replace(asked, weights=origin))
    with progress.step(f"building {asked.model} in PyTorch"):
        found = network.loaded.record.sha256
    if found != manifest.weights.sha256:
        raise InputError(
            f"{folder} was exported from other weights ({manifest.weights.source}, {manifest.weights.sha256[:12]}…) "
            f"than these ({network.loaded.record.source}, {found[:12]}…).",
            "Name the checkpoint that it was exported from with --weights.",
        )
    chosen = open_data(data or asked.data, "evaluation", samples or asked.samples, manifest.batch)
    if (seen := manifest.calibration) is not None:
        precision.proven_disjoint(seen.data, seen.samples, chosen)
    engine, runner = _opened(folder, manifest)
    parity = steps.judge(
        network.eager(manifest.inputs, manifest.outputs),
        runner,
        manifest.model,
        manifest.precision,
        manifest.weights,
        engine,
        chosen,
        progress,
    )
    return msgspec.structs.replace(manifest, parity=parity)


def self_test(folder: Path) -> Manifest:
    """A bundle's manifest with the parity of its golden vectors, behind a check of every file's digest."""
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    parity = _self_tested(folder, manifest, *_opened(folder, manifest))
    return msgspec.structs.replace(manifest, parity=parity)


def _self_tested(folder: Path, manifest: Manifest, engine: Engine, runner: Runner) -> Parity:
    """An engine's answers to the bundle's golden inputs, beside eager PyTorch's."""
    inputs, outputs = golden(folder, manifest)
    count = manifest.golden.count
    return compare(
        steps.Recorded(manifest.inputs, manifest.outputs, outputs),
        runner,
        [Batch(inputs, (None,) * count)],
        for_precision(manifest.precision, manifest.weights.trained),
        msgspec.structs.replace(manifest.parity.data, count=count, labelled=False),
        manifest.model.head,
        (*steps.untrained(manifest.weights), *engine.statements),
    )


def predict(folder: Path, images: Sequence[Path], best: int) -> tuple[Manifest, tuple[Prediction, ...]]:
    """The `best` classes of each image, through the bundle's own preprocessing and graph."""
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    if manifest.model.head == "embedding":
        raise UsageError(f"{folder} gives embeddings, which have no classes.", "Export it with --head logits.")
    labels = (folder / manifest.labels).read_text(encoding="utf-8").splitlines() if manifest.labels else []
    _, runner = _opened(folder, manifest)
    predictions = []
    for image in images:
        repeated = [calibration.decode(image)] * manifest.batch.minimum
        (answer,) = runner.run({"input": as_input(repeated, manifest.model)}).values()
        scores = _probabilities(answer[0], manifest)
        order = [int(index) for index in np.argsort(-scores, kind="stable")[:best]]
        names = tuple(labels[index] if index < len(labels) else f"class {index}" for index in order)
        predictions.append(Prediction(str(image), tuple(order), names, tuple(float(scores[index]) for index in order)))
    return manifest, tuple(predictions)


def inspect(subject: Path) -> tuple[Manifest | None, tuple[LayerRow, ...]]:
    """The nodes of a bundle's graph, or of an ONNX file, and the bundle's manifest."""
    if not subject.exists():
        raise InputError(f"There is no {subject}.", "Give a bundle's folder or an .onnx file.")
    if not subject.is_dir():
        return None, layers(subject)
    manifest = manifests.read(subject)
    return manifest, layers(subject / manifest.graph.file)


def engines(folder: Path, calls: int) -> tuple[EngineAccount, ...]:
    """Every compiled engine in a bundle, with its layers where this machine can load it; profiled in so many calls."""
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    return tuple(_account(engine, folder, calls) for engine in manifest.engines if engine.build is not None)


def _account(engine: Engine, folder: Path, calls: int) -> EngineAccount:
    try:
        return EngineAccount(engine, None, find_backend(engine.backend).layers(engine, folder, calls))
    except BackendError as error:
        return EngineAccount(engine, str(error), ())


def _opened(folder: Path, manifest: Manifest) -> tuple[Engine, Runner]:
    """The engine in a bundle that this machine can run, the one that was judged before those beside it.

    A graph that was judged on another version of its library is compiled anew, outside the bundle; an engine that was
    compiled for another machine or version is refused.
    """
    refusal: BackendError | None = None
    for engine in manifest.engines:
        try:
            backend = _backend(manifest.request, engine.backend)
            if engine.build is None and engine.version != backend.version:
                return _anew(folder, manifest.graph.file, backend)
            return engine, steps.Fitted(backend.load(engine, folder))
        except BackendError as error:
            refusal = refusal or error
    assert refusal is not None, "a bundle has an engine"
    raise refusal


def _anew(folder: Path, graph: str, backend: Backend) -> tuple[Engine, Runner]:
    with tempfile.TemporaryDirectory() as elsewhere:
        copied = Path(elsewhere) / "bundle"
        shutil.copytree(folder, copied)
        engine = backend.compile(copied / graph, copied)
        return engine, steps.Fitted(backend.load(engine, copied))


def _verdict(
    graph: steps.Graph,
    chosen: precision.Chosen,
    answers: steps.Answers,
    backend: Backend,
    data: Data,
    progress: Progress,
) -> steps.Verdict:
    """The verdict on the typed graph. The exported one is judged before it, at FP32's narrow bounds: an error that FP16
    could hide among its roundings shows there, and fails both.
    """
    exported = steps.judged(graph, steps.untyped(graph), answers, backend, data, progress).parity
    verdict = steps.judged(graph, chosen.typed, answers, backend, data, progress)
    statements = (*verdict.parity.statements, *chosen.statements)
    parity = msgspec.structs.replace(verdict.parity, statements=statements)
    if chosen.typed.precision != "fp32" and not exported.passed:
        failures = tuple(f"before typing, at fp32: {failure}" for failure in exported.failures)
        parity = msgspec.structs.replace(parity, passed=False, failures=failures + parity.failures)
    return verdict._replace(parity=parity)


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
    return names if graph.model.head != "embedding" and len(names) == graph.exported.outputs[0].shape[1] else ()


def _probabilities(answer: NDArray[Any], manifest: Manifest) -> NDArray[np.float64]:
    scores = answer.astype(np.float64)
    if manifest.model.head == "probabilities":
        return scores
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())
