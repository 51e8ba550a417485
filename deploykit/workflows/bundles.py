"""Verbs for a finished bundle: evaluate its parity again, inspect it, add an engine for another machine.

Every verb reads the manifest first and verifies the digest of every file before using any.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from deploykit.backends import create_backend
from deploykit.backends.adapters import CastingRunner
from deploykit.bundle import manifest as manifests
from deploykit.bundle import records, write
from deploykit.bundle.load import run_self_test
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.verify import check_files, read_golden
from deploykit.bundle.write import pack_engine
from deploykit.core.errors import BackendError, InputError
from deploykit.core.provenance import collect_provenance
from deploykit.core.values import (
    BuildOptions,
    Engine,
    EngineInspection,
    Latency,
    LayerRow,
    Progress,
    Runner,
    SecondaryEngine,
)
from deploykit.evaluate.latency.measure import PROGRESS_STEPS, measure_calls
from deploykit.export.layer_rows import read_layer_rows
from deploykit.quantize.receipt import compute_precision_receipt
from deploykit.workflows import reporting
from deploykit.workflows.diagnosed_bundle import DiagnosedBundle
from deploykit.workflows.product_times import time_floating_products


def add_engine(folder: Path, name: str, options: BuildOptions, progress: Progress) -> tuple[Manifest, SecondaryEngine]:
    """Compile the bundle's graph on this machine for the backend `name` and add the engine; returns the new manifest
    and the engine.

    Where this machine can run the engine, it is tested with the golden vectors and measured before it is packed. It
    replaces an engine of the same tag; of a graph that needs no engine, it replaces this machine's verdict. Everything
    else in the bundle stays as it is.
    """
    manifest = manifests.read_manifest(folder)
    check_files(folder, manifest)
    renderer = reporting.report_renderer(folder, records.read_records(folder, manifest))
    backend = create_backend(name, msgspec.structs.replace(options, batch=manifest.batch))
    primary, here, home = manifest.engine, collect_provenance(), manifest.provenance
    same_backend = (primary.backend, primary.version) == (backend.name, backend.version)
    same_machine = (home.host, home.processor) == (here.host, here.processor)
    if primary.build is None and same_backend and same_machine:
        raise InputError(
            f"{name} {primary.version} on {here.host} is the bundle's primary engine already.",
            "Compile for another backend, or on another machine.",
        )
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "bundle"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("engines"))
        with progress.step(f"compiling for {name}"):
            engine = backend.compile(copy / manifest.graph.file, copy, progress)
        if (reason := backend.unavailable_reason()) is not None:
            secondary = SecondaryEngine(engine, reason, provenance=here)
        else:
            runner = backend.load(engine, copy)
            with progress.step("running the golden vectors"):
                parity = run_self_test(folder, manifest, engine, CastingRunner(runner))
            executed = backend.read_executed_precision(engine, copy)
            receipt = compute_precision_receipt(copy / manifest.graph.file, executed, name, engine.version)
            receipt = time_floating_products(backend, engine, copy, receipt)
            latency = _measure_golden_latency(folder, manifest, runner, progress)
            secondary = SecondaryEngine(engine, None, parity, receipt, latency, here)
        complete = pack_engine(folder, manifest, secondary, copy, renderer)
        return complete, complete.extra_engines[-1]


def remove_engine(folder: Path, tag: str) -> Manifest:
    """Take an extra engine out of a bundle; returns the new manifest."""
    manifest = manifests.read_manifest(folder)
    check_files(folder, manifest)
    renderer = reporting.report_renderer(folder, records.read_records(folder, manifest))
    return write.remove_engine(folder, manifest, tag, renderer)


def _measure_golden_latency(folder: Path, manifest: Manifest, runner: Runner, progress: Progress) -> Latency:
    """The latency of one call with golden inputs, at the smallest batch that the graph accepts."""
    rows, _ = read_golden(folder, manifest)
    size = manifest.batch.minimum
    inputs = {spec.name: np.ascontiguousarray(rows[spec.name][:size], dtype=spec.dtype) for spec in runner.inputs}
    with progress.step("measuring latency", PROGRESS_STEPS) as advance:
        return measure_calls(lambda: runner.run(inputs), size, advance=advance).latency


def reevaluate_parity(
    folder: Path, data: str | None, samples: int | None, weights: str | None, progress: Progress
) -> Manifest:
    """The manifest with parity evaluated again, on the given samples or on those of the export."""
    bundle = DiagnosedBundle(folder, data, samples, weights, progress)
    return msgspec.structs.replace(bundle.manifest, parity=bundle.judge_engine())


def inspect_graph(subject: Path) -> tuple[Manifest | None, tuple[LayerRow, ...]]:
    """The nodes of a bundle's graph, or of an ONNX file; and the manifest, where it is a bundle."""
    if not subject.exists():
        raise InputError(f"{subject} does not exist.", "Give the folder of a bundle, or an .onnx file.")
    if not subject.is_dir():
        return None, read_layer_rows(subject)
    manifest = manifests.read_manifest(subject)
    check_files(subject, manifest)
    return manifest, read_layer_rows(subject / manifest.graph.file)


def inspect_engines(folder: Path, calls: int) -> tuple[EngineInspection, ...]:
    """Every engine in a bundle, with its layers where this machine can load it, profiled in `calls` calls."""
    manifest = manifests.read_manifest(folder)
    check_files(folder, manifest)
    return tuple(_profile_engine(engine, folder, calls) for engine in manifest.engines)


def _profile_engine(engine: Engine, folder: Path, calls: int) -> EngineInspection:
    try:
        return EngineInspection(engine, None, create_backend(engine.backend).read_layers(engine, folder, calls))
    except BackendError as error:
        return EngineInspection(engine, str(error), ())
