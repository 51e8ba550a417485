"""What one does with a finished bundle: judge it anew, run it, look into it, give it an engine for another machine.

Each verb reads the manifest first and checks every file's digest before any of them is used.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

import calibration
from deploykit import precision, reporting, steps
from deploykit.backends import backend as find_backend
from deploykit.bundle import manifest as manifests
from deploykit.bundle import records
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.verify import check_files, golden
from deploykit.bundle.write import add
from deploykit.data import as_input, open_data
from deploykit.errors import BackendError, InputError, UsageError
from deploykit.export.layers import layers
from deploykit.opened import opened, origin
from deploykit.parity.compare import compare
from deploykit.parity.tolerances import for_precision
from deploykit.quantize.receipt import receipt
from deploykit.values import (
    Batch,
    Beside,
    BuildOptions,
    Engine,
    EngineAccount,
    LayerRow,
    Parity,
    Prediction,
    Progress,
    Runner,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        if (obstacle := backend.obstacle()) is not None:
            beside = Beside(engine, obstacle)
        else:
            with progress.step("answering the golden vectors"):
                parity = _self_tested(folder, manifest, engine, steps.Fitted(backend.load(engine, copied)))
            executed = backend.executed(engine, copied)
            ran = receipt(copied / manifest.graph.file, executed, name, engine.version)
            beside = Beside(engine, None, parity, ran)
        page = reporting.pager(folder, records.read(folder, manifest))
        complete = add(folder, manifest, beside, copied, page)
        return complete, complete.beside[-1]


def recheck(folder: Path, data: str | None, samples: int | None, weights: str | None, progress: Progress) -> Manifest:
    """A bundle's manifest with its parity judged anew: its own graph against eager PyTorch on the samples asked for."""
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    network, asked = origin(folder, manifest, weights, progress), manifest.request
    chosen = open_data(data or asked.data, "evaluation", samples or asked.samples, manifest.batch)
    if (seen := manifest.calibration) is not None:
        precision.proven_disjoint(seen.data, seen.samples, chosen)
    engine, runner = opened(folder, manifest)
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
    parity = _self_tested(folder, manifest, *opened(folder, manifest))
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
    _, runner = opened(folder, manifest)
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


def _probabilities(answer: NDArray[Any], manifest: Manifest) -> NDArray[np.float64]:
    scores = answer.astype(np.float64)
    if manifest.model.head == "probabilities":
        return scores
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())
