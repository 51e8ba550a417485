"""All that determines a result, as one digest: what the cache and the bundle are found by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from deploykit.core import calibration
from deploykit.core.calibration.listed import SUFFIXES as LISTS
from deploykit.core.provenance import code_digest, libraries
from deploykit.core.values import ExportRequest
from deploykit.export.networks import sources
from deploykit.export.networks.weights_source import identity


def tools() -> dict[str, Any]:
    """Our own code and the libraries."""
    return {"code": code_digest(), "libraries": libraries()}


def data(name: str | None) -> str:
    """A named set by its name; what lies at a path by its files' names, sizes and times, so that no image need be read.

    A list of images counts by its own words too: an editor may leave its size and time as they were.
    """
    files = None if name is None else calibration.files(name)
    if name is None or files is None:
        return name or ""
    stats = [(path.as_posix(), path.stat()) for path in files if path.is_file()]
    listed = Path(name).suffix.lower() in LISTS and Path(name).is_file()
    words = hashlib.sha256(Path(name).read_bytes()).hexdigest() if listed else ""
    return _digest({"files": [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats], "list": words})


def bundle(request: ExportRequest) -> str:
    """Of a whole request."""
    calibrated = {} if request.calibration is None else {"calibration set": data(request.calibration.data)}
    parts = {**_network(request), "data": data(request.data), **calibrated}
    return _digest({**_words(request), **parts, **tools()})


def graph(request: ExportRequest) -> str:
    """Of what the exported FP32 graph depends on: not the precision, nor the data it is judged on."""
    words = {name: value for name, value in _words(request).items() if name not in LATER}
    return _digest({**words, **_network(request), **tools()})


def _network(request: ExportRequest) -> dict[str, Any]:
    """Of the network's definition, wherever it comes from, and of its weights."""
    return {"network": sources.identity(request.model), "weights": identity(request.weights)}


LATER = frozenset(
    {"precision", "data", "samples", "target", "beside", "offered", "build", "io", "calibration", "budget"}
)
"""What a request says of the stages behind the FP32 graph."""


def _words(request: ExportRequest) -> dict[str, Any]:
    words: dict[str, Any] = msgspec.to_builtins(request)
    return words


def _digest(parts: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
