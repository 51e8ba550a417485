"""Inputs of a cell: the files that its arguments name, and the digest that identifies its result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from deploykit.core import calibration
from deploykit.core.errors import InputError
from deploykit.core.files import hash_file
from deploykit.core.values.sweeps import Cell
from deploykit.export.networks.weights_source import list_checkpoint_files, split_key
from deploykit.workflows import cache_keys

RESERVED: Final = frozenset({"random", "imagenet", *calibration.SETS})
"""Arguments that never mean a file of that name."""

MAX_HASHED_FILES: Final = 4
"""Up to so many files (a checkpoint, a graph and its weights) are identified by content, more by size and time."""

CATALOGS: Final = frozenset({"torchvision", "timm"})
"""Prefixes before a colon that are not a package of the user."""


def list_cell_files(folder: Path, cell: Cell) -> dict[str, tuple[Path, ...]]:
    """List the files that each argument of a cell names, by argument: a checkpoint, images, a network's code."""
    files_by_argument = {}
    for argument in cell.export_arguments:
        text = argument.partition("=")[2] if "=" in argument else argument
        if files := _find_argument_files(folder, text):
            files_by_argument[text] = files
    return files_by_argument


def compute_cell_key(folder: Path, cell: Cell) -> str:
    """Digest of a cell's arguments, of all files that they name, of deploykit's code and of the installed libraries."""
    digests = {argument: _digest_files(folder, files) for argument, files in list_cell_files(folder, cell).items()}
    parts = {"words": cell.export_arguments, "files": digests, **cache_keys.tool_versions()}
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _find_argument_files(folder: Path, text: str) -> tuple[Path, ...]:
    if not text or text.startswith("-") or text in RESERVED:
        return ()
    if (code := _list_package_files(folder, text)) is not None:
        return code
    path = folder / text
    if (images := _list_sample_files(path)) is not None:
        return images
    if not path.is_file():
        path = Path(split_key(str(path))[0])  # FILE:KEY chooses one state dict of a checkpoint
    return (*_list_parts(path), *_list_external_data(path)) if path.is_file() else ()


def _list_sample_files(path: Path) -> tuple[Path, ...] | None:
    """List the files of a sample set; None if the path does not exist or is another kind of file."""
    try:
        files = calibration.list_files(str(path))
    except InputError:
        return None
    return None if files is None else tuple(file for file in files if file.is_file())


def _list_parts(path: Path) -> tuple[Path, ...]:
    """The file and, for the index of a checkpoint in several files, those."""
    try:
        return tuple(list_checkpoint_files(path))
    except InputError:  # the export reports the problem
        return (path,)


def _list_package_files(folder: Path, text: str) -> tuple[Path, ...] | None:
    """List the Python files of the package in `my_package.models:build_net`, if it is in the folder."""
    module, colon, attribute = text.partition(":")
    top = module.partition(".")[0]
    if not colon or not attribute.isidentifier() or top in CATALOGS or not top.isidentifier():
        return None
    if (folder / f"{top}.py").is_file():
        return (folder / f"{top}.py",)
    return tuple(sorted((folder / top).rglob("*.py"))) or None


def _list_external_data(path: Path) -> Iterator[Path]:
    """List the external data files of an ONNX graph."""
    if path.suffix.lower() != ".onnx":
        return
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # the export reports the problem
        return
    places = (entry.value for tensor in graph.initializer if uses_external_data(tensor)
              for entry in tensor.external_data if entry.key == "location")  # fmt: skip
    for place in sorted(set(places)):
        if (path.parent / place).is_file():
            yield path.parent / place


def _digest_files(folder: Path, files: tuple[Path, ...]) -> list[tuple[str, str]]:
    """Digest a few files by content, many by size and time, so that images need not be read."""
    by_content = len(files) <= MAX_HASHED_FILES
    return [(os.path.relpath(path, folder), _fingerprint_file(path, by_content)) for path in files]


def _fingerprint_file(path: Path, content: bool) -> str:
    status = path.stat()
    if content:
        return _cached_sha256(path, status.st_size, status.st_mtime_ns)
    return f"{status.st_size} {status.st_mtime_ns}"


@cache
def _cached_sha256(path: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 - part of the cache key
    return hash_file(path)
