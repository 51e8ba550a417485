"""A bundle opened: the engine in it that this machine can run, as a Runner.

Nothing here, nor in what it imports, needs PyTorch, onnx or any library but the engine's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from deploykit.backends import backend as find_backend
from deploykit.backends.adapters import Fitted
from deploykit.bundle.manifest import Manifest
from deploykit.core.errors import BackendError
from deploykit.core.values import Engine, Runner


def opened(folder: Path, manifest: Manifest) -> tuple[Engine, Runner]:
    """The engine in a bundle that this machine can run, the one that was judged before those beside it."""
    engine, runner, _ = first(folder, manifest, manifest.engines)
    return engine, runner


class First(NamedTuple):
    """An engine that runs here, and why each that was tried before it does not."""

    engine: Engine
    runner: Runner
    passed_over: tuple[str, ...]


def first(folder: Path, manifest: Manifest, engines: Iterable[Engine]) -> First:
    """The first of these engines that this machine can run. Where it can run none, the first one's BackendError."""
    refusals: list[BackendError] = []
    for engine in engines:
        try:
            return First(*loaded(folder, manifest, engine), tuple(map(str, refusals)))
        except BackendError as error:
            refusals.append(error)
    assert refusals, "a bundle has an engine"
    raise refusals[0]


def loaded(folder: Path, manifest: Manifest, engine: Engine) -> tuple[Engine, Runner]:
    """One engine of a bundle. One that is a graph is compiled while it is loaded, by whatever version is here.

    BackendError for an engine that was compiled for another machine or version.
    """
    backend = find_backend(engine.backend, manifest.request.build_options)
    if engine.build is None:
        engine = msgspec.structs.replace(engine, version=backend.version)
    return engine, Fitted(backend.load(engine, folder))
