"""Cache keys: a digest of everything that determines a result, by which the cache and a bundle recognise it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import msgspec

from deploykit.core import calibration
from deploykit.core.calibration.listed import SUFFIXES as LISTS
from deploykit.core.files import escape_undecodable
from deploykit.core.provenance import code_digest, list_libraries
from deploykit.core.values import ExportRequest
from deploykit.export.networks import sources
from deploykit.export.networks.weights_source import weights_identity


def tool_versions() -> dict[str, Any]:
    """The digest of deploykit's code, and the versions of the libraries."""
    return {"code": code_digest(), "libraries": list_libraries()}


def data_key(name: str | None) -> str:
    """The key of a data set: its name, or for a path the names, sizes and times of its files, so that no image is read.

    A list of images is hashed by its content too, since an editor may leave its size and time unchanged.
    """
    files = None if name is None else calibration.list_files(name)
    if name is None or files is None:
        return name or ""
    stats = [(escape_undecodable(path.as_posix()), path.stat()) for path in files if path.is_file()]
    is_list = Path(name).suffix.lower() in LISTS and Path(name).is_file()
    content = hashlib.sha256(Path(name).read_bytes()).hexdigest() if is_list else ""
    return _hash_parts({"files": [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats], "list": content})


def bundle_key(request: ExportRequest) -> str:
    """The key of the bundle that a request gives."""
    calibrated = {} if request.calibration is None else {"calibration set": data_key(request.calibration.data)}
    parts = {**_network_parts(request), "data": data_key(request.data), **calibrated}
    return _hash_parts({**_request_fields(request), **parts, **tool_versions()})


def graph_key(request: ExportRequest) -> str:
    """The key of the exported FP32 graph, which depends neither on the precision nor on the evaluation data."""
    fields = {name: value for name, value in _request_fields(request).items() if name not in LATER_FIELDS}
    return _hash_parts({**fields, **_network_parts(request), **tool_versions()})


def _network_parts(request: ExportRequest) -> dict[str, Any]:
    """The network's definition, wherever it comes from, and its weights."""
    return {"network": sources.network_identity(request.model), "weights": weights_identity(request.weights)}


LATER_FIELDS: Final = frozenset(
    {
        *("precision", "data", "samples", "target", "extra_engines", "optional_engines", "build", "io"),
        *("calibration", "budget", "output_kinds", "fallback_targets"),
    }
)
"""Fields of a request that only concern stages after the FP32 graph."""


def _request_fields(request: ExportRequest) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(request)
    return fields


def _hash_parts(parts: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
