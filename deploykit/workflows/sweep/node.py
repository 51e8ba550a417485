"""Task on a node: lay out the cell's files as in the sweep's folder, run the export, stream the bundle back."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deploykit.core import cache
from deploykit.core.files import is_abandoned, link_or_copy, owner_tag
from deploykit.core.values import Value
from deploykit.workflows.sweep import archive
from deploykit.workflows.sweep.archive import ArchiveLabel
from deploykit.workflows.sweep.process import PROGRAM, CellProcessResult, run_process


class CellTask(Value, frozen=True):
    """One attempt to run a cell."""

    name: str
    arguments: tuple[str, ...]
    execution: str
    timeout_s: float | None
    program: tuple[str, ...] | None
    """The command that starts deploykit on the node; None: the node's own installation."""


class CellAnswer(Value, frozen=True):
    """First item of a node's response, before the pieces of the bundle."""

    host: str
    process: CellProcessResult
    bundle: ArchiveLabel | None
    """None: there is no bundle, and no piece follows."""


class ShippedFiles(NamedTuple):
    """Files sent to nodes: the archive's label, and its pieces in the cluster's object store."""

    label: ArchiveLabel
    pieces: Sequence[Any]
    """Ray's ObjectRefs, in order."""


def run_cell(task: CellTask, sent: Sequence[ShippedFiles]) -> Iterator[CellAnswer | bytes]:
    """Run a cell. Yields an answer, then the pieces of the bundle if there is one.

    Received files stay in the node's cache by their digest for the next cells.
    """
    root = cache.cache_folder() / "cells"
    root.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(root)
    with tempfile.TemporaryDirectory(prefix=f"{owner_tag()}-", dir=root, ignore_cleanup_errors=True) as temporary:
        place, bundle = Path(temporary) / "here", Path(temporary) / task.name
        place.mkdir()
        for shipped in sent:
            _link_files(shipped, place)
        arguments = ("export", *task.arguments, "-o", str(bundle))
        result = run_process(task.program or PROGRAM, arguments, place, task.execution, task.timeout_s)
        if not result.wrote_bundle:
            yield CellAnswer(platform.node(), result, None)
            return
        files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
        with archive.pack_files(files, Path(temporary)) as packed:
            yield CellAnswer(platform.node(), result, packed.label)
            yield from packed.pieces()


def _link_files(sent: ShippedFiles, place: Path) -> None:
    """Link the received files into `place` from the node's cache."""

    def unpack_files(folder: Path) -> None:
        import ray

        (folder / "files").mkdir()
        archive.unpack_archive((ray.get(piece) for piece in sent.pieces), sent.label, folder / "files")

    cached = cache.fetch_or_build("sent", {"sha256": sent.label.sha256}, unpack_files) / "files"
    place_files(cached, place)


def place_files(source: Path, target: Path) -> None:
    """Link the files of a folder into another, and replace those of the same names: two arguments may name one file.

    What lies beside or below an ONNX file is copied: it may be external data, and onnx refuses to read that where it
    has several hard links.
    """
    graph_folders = {path.parent for path in source.rglob("*") if path.suffix.lower() == ".onnx"}

    def place_file(file: str, copy: str) -> None:
        Path(copy).unlink(missing_ok=True)
        place = shutil.copy2 if graph_folders & {*Path(file).parents} else link_or_copy
        place(file, copy)

    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=place_file)


def _remove_leftovers(root: Path) -> None:
    """Remove the temporary folders of killed workers; other nodes may use the same cache."""
    for folder in root.glob("*-*"):
        if is_abandoned(folder, folder.name):
            shutil.rmtree(folder, ignore_errors=True)
