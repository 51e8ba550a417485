"""Load the engine of a bundle that this machine can run, as a Runner.

Neither this module nor its imports need PyTorch, onnx or any library other than the engine's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from deploykit.backends import create_backend as find_backend
from deploykit.backends.adapters import CastingRunner
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.order import OrderedEngine, order_engines
from deploykit.core.errors import BackendError
from deploykit.core.values import Engine, Runner


def open_engine(folder: Path, manifest: Manifest) -> tuple[Engine, Runner]:
    """Load the first engine in a bundle that this machine can run, the primary engine first."""
    engine, runner, _ = first_runnable(folder, manifest, manifest.engines)
    return engine, runner


class RunnableEngine(NamedTuple):
    """An engine that runs here, and the reasons why those tried before do not."""

    engine: Engine
    runner: Runner
    skipped_engines: tuple[str, ...]


def first_runnable(folder: Path, manifest: Manifest, engines: Iterable[Engine]) -> RunnableEngine:
    """Load the first of these engines that this machine can run. If none runs, raise the first one's BackendError."""
    refusals: list[BackendError] = []
    for engine in engines:
        try:
            return RunnableEngine(*load_engine(folder, manifest, engine), tuple(map(str, refusals)))
        except BackendError as error:
            refusals.append(error)
    assert refusals, "a bundle has an engine"
    raise refusals[0]


GRAPH_BACKENDS: Final = ("onnxruntime", "openvino")
"""Backends whose engine is an ONNX graph: they run the graph of any bundle, whatever its primary engine."""


def open_fastest(folder: Path, manifest: Manifest, backend: str | None = None) -> RunnableEngine:
    """Load the primary engine, or the fastest faithful one that this machine can run, see `order_engines`; with
    `backend`, only engines of that backend are considered. Skipped engines are listed with their reasons.

    If none runs, the first one's BackendError.
    """
    refusals: list[BackendError] = []
    ordered = order_engines(manifest) if backend is None else tuple(_engines_of(folder, manifest, backend))
    for engine, failure in ordered:
        try:
            loaded = load_engine(folder, manifest, engine)
        except BackendError as error:
            refusals.append(error)
        else:
            replaces_primary = engine is not manifest.engine and failure is None
            failed = tuple(_failed_engines(ordered)) if replaces_primary else ()
            return RunnableEngine(*loaded, (*map(str, refusals), *failed))
    assert refusals, "a bundle has an engine"
    raise refusals[0]


def _failed_engines(ordered: Iterable[OrderedEngine]) -> Iterator[str]:
    """Why engines that may run here were not tried: their outputs failed at export."""
    for engine, failure in ordered:
        if failure is not None:
            yield f"The outputs of {engine.backend} {engine.version} failed at export: {failure}."


def _engines_of(folder: Path, manifest: Manifest, backend: str) -> Iterator[OrderedEngine]:
    """The engines of one backend, as recorded; the graph for a backend that runs it and has no engine of its own."""
    find_backend(backend)
    own = [engine for engine in manifest.engines if engine.backend == backend]
    if not own and backend not in GRAPH_BACKENDS:
        raise BackendError(
            f"{folder} has no engine for {backend}.", f"Build it here: deploykit compile {folder} --target {backend}"
        )
    graph = manifest.files[manifest.graph.file]
    caveat = f"parity was evaluated with {manifest.engine.backend}, not with {backend}: run the self-test"
    for engine in own or [Engine(backend, "", graph, manifest.inputs, manifest.outputs, (caveat,))]:
        yield OrderedEngine(engine, None)


def load_engine(folder: Path, manifest: Manifest, engine: Engine) -> tuple[Engine, Runner]:
    """Load one engine of a bundle. An engine that is a graph is compiled while loading, by the installed version.

    BackendError for an engine that was built for another machine or version.
    """
    backend = find_backend(engine.backend, manifest.request.build_options)
    if engine.build is None:
        engine = msgspec.structs.replace(engine, version=backend.version)
    return engine, CastingRunner(backend.load(engine, folder))
