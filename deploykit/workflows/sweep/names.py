"""What a cell names: files that lie in the sweep's folder or elsewhere, and the digest of all that it says."""

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
from deploykit.core.files import sha256
from deploykit.core.values.sweeps import Cell
from deploykit.workflows import cache_keys

RESERVED: Final = frozenset({"random", "imagenet", *calibration.SETS})
"""Words that mean something else than a file of that name."""

FEW: Final = 4
"""A checkpoint, a graph and its weights: files that are read to know them again."""

CATALOGS: Final = frozenset({"torchvision", "timm"})
"""Before a colon, they are no package of the user's."""


def named(folder: Path, cell: Cell) -> dict[str, tuple[Path, ...]]:
    """The files that each word of a cell leads to, by that word: a checkpoint, images, the code of a network."""
    found = {}
    for word in cell.words:
        text = word.partition("=")[2] if "=" in word else word
        if files := _files(folder, text):
            found[text] = files
    return found


def key(folder: Path, cell: Cell) -> str:
    """Digest of a cell's words, of all files that these name, and of our own code and the libraries here."""
    digests = {word: _digest(folder, files) for word, files in named(folder, cell).items()}
    parts = {"words": cell.words, "files": digests, **cache_keys.tools()}
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _files(folder: Path, text: str) -> tuple[Path, ...]:
    if not text or text.startswith("-") or text in RESERVED:
        return ()
    if (code := _code(folder, text)) is not None:
        return code
    path = folder / text
    if (images := _images(path)) is not None:
        return images
    return (path, *_beside(path)) if path.is_file() else ()


def _images(path: Path) -> tuple[Path, ...] | None:
    """Of a set of samples; None where nothing is there, or a file of another kind."""
    try:
        files = calibration.files(str(path))
    except InputError:
        return None
    return None if files is None else tuple(each for each in files if each.is_file())


def _code(folder: Path, text: str) -> tuple[Path, ...] | None:
    """Every Python file of the package that `my_package.models:build_net` begins with, where it lies in the folder."""
    module, colon, attribute = text.partition(":")
    top = module.partition(".")[0]
    if not colon or not attribute.isidentifier() or top in CATALOGS or not top.isidentifier():
        return None
    if (folder / f"{top}.py").is_file():
        return (folder / f"{top}.py",)
    return tuple(sorted((folder / top).rglob("*.py"))) or None


def _beside(path: Path) -> Iterator[Path]:
    """Files that an ONNX graph keeps its weights in."""
    if path.suffix.lower() != ".onnx":
        return
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # the export says what is wrong with it
        return
    places = (entry.value for tensor in graph.initializer if uses_external_data(tensor)
              for entry in tensor.external_data if entry.key == "location")  # fmt: skip
    for place in sorted(set(places)):
        if (path.parent / place).is_file():
            yield path.parent / place


def _digest(folder: Path, files: tuple[Path, ...]) -> list[tuple[str, str]]:
    """Of few files their content; of many, sizes and times, so that no image need be read."""
    few = len(files) <= FEW
    return [(os.path.relpath(path, folder), _of(path, few)) for path in files]


def _of(path: Path, content: bool) -> str:
    status = path.stat()
    if content:
        return _sha256(path, status.st_size, status.st_mtime_ns)
    return f"{status.st_size} {status.st_mtime_ns}"


@cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 - states of the file
    return sha256(path)
