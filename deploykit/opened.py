"""A bundle opened: the engine in it that this machine can run, as a Runner."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from deploykit import steps
from deploykit.backends import backend as find_backend
from deploykit.bundle.manifest import Manifest
from deploykit.errors import BackendError
from deploykit.values import Backend, Engine, Runner


def opened(folder: Path, manifest: Manifest) -> tuple[Engine, Runner]:
    """The engine in a bundle that this machine can run, the one that was judged before those beside it.

    A graph that was judged on another version of its library is compiled anew, outside the bundle; an engine that was
    compiled for another machine or version is refused.
    """
    refusal: BackendError | None = None
    for engine in manifest.engines:
        try:
            backend = find_backend(engine.backend, manifest.request.build_options)
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
