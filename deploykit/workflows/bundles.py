"""What one does with a finished bundle: judge it anew, look into it, give it an engine for another machine. What a
service does with it is in `runtime.py`.

Each verb reads the manifest first and checks every file's digest before any of them is used.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from deploykit.backends import backend as find_backend
from deploykit.backends.adapters import Fitted
from deploykit.bundle import manifest as manifests
from deploykit.bundle import records
from deploykit.bundle.load import self_tested
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.open import opened
from deploykit.bundle.verify import check_files, golden
from deploykit.bundle.write import add
from deploykit.core.calibration.batches import open_data, tensors
from deploykit.core.errors import BackendError, InputError
from deploykit.core.provenance import provenance
from deploykit.core.values import Beside, BuildOptions, Engine, EngineAccount, Latency, LayerRow, Progress, Runner
from deploykit.evaluate.latency.measure import PARTS, measure
from deploykit.export.layer_rows import layers
from deploykit.quantize.receipt import receipt
from deploykit.workflows import precision, reporting, stages
from deploykit.workflows.source_network import origin


def compile_for(folder: Path, name: str, options: BuildOptions, progress: Progress) -> tuple[Manifest, Beside]:
    """The manifest of a bundle to which an engine of that backend was added, and that engine, built on this machine
    from the bundle's own graph.

    Where this machine can run it, it answers the golden vectors and is measured before it is packed. An engine with the
    same tag is replaced, and the verdict of this machine on a graph that needs no engine; everything else in the bundle
    stays as it is.
    """
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    page = reporting.pager(folder, records.read(folder, manifest))
    backend = find_backend(name, msgspec.structs.replace(options, batch=manifest.batch))
    judged, here = manifest.engine, provenance()
    home = manifest.provenance
    same = (judged.backend, judged.version) == (backend.name, backend.version)
    if judged.build is None and same and (home.host, home.processor) == (here.host, here.processor):
        raise InputError(
            f"{name} {judged.version} on {here.host} is the engine that the bundle was judged by.",
            "Compile for another, or on another machine.",
        )
    with tempfile.TemporaryDirectory() as elsewhere:
        copied = Path(elsewhere) / "bundle"
        shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("engines"))
        with progress.step(f"compiling for {name}"):
            engine = backend.compile(copied / manifest.graph.file, copied, progress)
        if (obstacle := backend.obstacle()) is not None:
            beside = Beside(engine, obstacle, provenance=here)
        else:
            runner = backend.load(engine, copied)
            with progress.step("answering the golden vectors"):
                parity = self_tested(folder, manifest, engine, Fitted(runner))
            executed = backend.executed(engine, copied)
            ran = receipt(copied / manifest.graph.file, executed, name, engine.version)
            beside = Beside(engine, None, parity, ran, _latency(folder, manifest, runner, progress), here)
        complete = add(folder, manifest, beside, copied, page)
        return complete, complete.beside[-1]


def _latency(folder: Path, manifest: Manifest, runner: Runner, progress: Progress) -> Latency:
    """Of one call with golden inputs, in the smallest batch that the graph takes."""
    rows, _ = golden(folder, manifest)
    size = manifest.batch.minimum
    inputs = {spec.name: np.ascontiguousarray(rows[spec.name][:size], dtype=spec.dtype) for spec in runner.inputs}
    with progress.step("measuring latency", PARTS) as advance:
        return measure(lambda: runner.run(inputs), size, advance=advance).latency


def recheck(folder: Path, data: str | None, samples: int | None, weights: str | None, progress: Progress) -> Manifest:
    """A bundle's manifest with its parity judged anew: its own graph against eager PyTorch on the samples asked for."""
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    network, asked = origin(folder, manifest, weights, progress), manifest.request
    taken = tensors(manifest.model, manifest.inputs)
    chosen = open_data(data or asked.data, "evaluation", samples or asked.samples, manifest.batch, taken)
    if (seen := manifest.calibration) is not None:
        precision.proven_disjoint(seen.data, seen.samples, chosen)
    engine, runner = opened(folder, manifest)
    parity = stages.judge(
        network.oracle(manifest.inputs, manifest.outputs),
        runner,
        manifest.model,
        manifest.precision,
        manifest.weights,
        engine,
        chosen,
        progress,
    )
    return msgspec.structs.replace(manifest, parity=parity)


def inspect(subject: Path) -> tuple[Manifest | None, tuple[LayerRow, ...]]:
    """The nodes of a bundle's graph, or of an ONNX file, and the bundle's manifest."""
    if not subject.exists():
        raise InputError(f"There is no {subject}.", "Give a bundle's folder or an .onnx file.")
    if not subject.is_dir():
        return None, layers(subject)
    manifest = manifests.read(subject)
    check_files(subject, manifest)
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
