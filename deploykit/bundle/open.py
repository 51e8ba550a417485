"""Load the engine of a bundle that this machine can run, as a Runner.

Neither this module nor its imports need PyTorch, onnx or any library other than the engine's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from deploykit.backends import create_backend as find_backend
from deploykit.backends.adapters import CastingRunner
from deploykit.bundle.manifest import Manifest
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


def load_engine(folder: Path, manifest: Manifest, engine: Engine) -> tuple[Engine, Runner]:
    """Load one engine of a bundle. An engine that is a graph is compiled while loading, by the installed version.

    BackendError for an engine that was built for another machine or version.
    """
    backend = find_backend(engine.backend, manifest.request.build_options)
    if engine.build is None:
        engine = msgspec.structs.replace(engine, version=backend.version)
    return engine, CastingRunner(backend.load(engine, folder))
