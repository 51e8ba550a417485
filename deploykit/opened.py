"""A bundle opened: the engine in it that this machine can run, as a Runner, and the network that it came from."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec

from deploykit import steps
from deploykit.backends import backend as find_backend
from deploykit.bundle.manifest import Manifest
from deploykit.errors import BackendError, InputError
from deploykit.export.source import parse_weights
from deploykit.network import Network
from deploykit.values import Backend, Engine, Progress, Runner


def opened(folder: Path, manifest: Manifest) -> tuple[Engine, Runner]:
    """The engine in a bundle that this machine can run, the one that was judged before those beside it."""
    refusal: BackendError | None = None
    for engine in manifest.engines:
        try:
            return loaded(folder, manifest, engine)
        except BackendError as error:
            refusal = refusal or error
    assert refusal is not None, "a bundle has an engine"
    raise refusal


def loaded(folder: Path, manifest: Manifest, engine: Engine) -> tuple[Engine, Runner]:
    """One engine of a bundle.

    A graph that was judged on another version of its library is compiled anew, outside the bundle. BackendError for an
    engine that was compiled for another machine or version.
    """
    backend = find_backend(engine.backend, manifest.request.build_options)
    if engine.build is None and engine.version != backend.version:
        return _anew(folder, manifest.graph.file, backend)
    return engine, steps.Fitted(backend.load(engine, folder))


def origin(folder: Path, manifest: Manifest, weights: str | None, progress: Progress) -> Network:
    """The network that a bundle was exported from, with the weights that `weights` names, or those of the request.

    InputError where these are others than the bundle's.
    """
    asked = manifest.request
    source = asked.weights if weights is None else parse_weights(weights, asked.weights.seed)
    network = Network(msgspec.structs.replace(asked, weights=source))
    with progress.step(f"building {asked.model} in PyTorch"):
        found = network.loaded.record
    if found.sha256 != manifest.weights.sha256:
        raise InputError(
            f"{folder} was exported from other weights ({manifest.weights.source}, {manifest.weights.sha256[:12]}…) "
            f"than these ({found.source}, {found.sha256[:12]}…).",
            "Name the checkpoint that it was exported from with --weights.",
        )
    return network


def _anew(folder: Path, graph: str, backend: Backend) -> tuple[Engine, Runner]:
    with tempfile.TemporaryDirectory() as elsewhere:
        copied = Path(elsewhere) / "bundle"
        shutil.copytree(folder, copied)
        engine = backend.compile(copied / graph, copied)
        return engine, steps.Fitted(backend.load(engine, copied))
