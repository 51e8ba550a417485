"""All that determines a result, as one digest: what the cache and the bundle are found by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from calibration import SETS
from deploykit.export.source import identity
from deploykit.provenance import code_digest, libraries
from deploykit.values import Backend, ExportRequest


def tools() -> dict[str, Any]:
    """Our own code and the libraries."""
    return {"code": code_digest(), "libraries": libraries()}


def backend(used: Backend) -> str:
    """Name and version."""
    return f"{used.name} {used.version}"


def data(name: str) -> str:
    """A named set by its name; a folder by its files' names, sizes and times, so that no image need be read."""
    folder = Path(name)
    if name in SETS or not folder.is_dir():
        return name
    files = sorted((path.as_posix(), path.stat()) for path in folder.rglob("*") if path.is_file())
    return _digest({"files": [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]})


def bundle(request: ExportRequest) -> str:
    """Of a whole request."""
    parts = {"weights": identity(request.weights), "data": data(request.data)}
    return _digest({**_words(request), **parts, **tools()})


def graph(request: ExportRequest) -> str:
    """Of what the exported FP32 graph depends on: not the precision, nor the data it is judged on."""
    words = {name: value for name, value in _words(request).items() if name not in {"precision", "data", "samples"}}
    return _digest({**words, "weights": identity(request.weights), **tools()})


def _words(request: ExportRequest) -> dict[str, Any]:
    words: dict[str, Any] = msgspec.to_builtins(request)
    return words


def _digest(parts: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
