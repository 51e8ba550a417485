"""Files that nodes need: the cells' files from the sweep's folder, put into the cluster's object store once each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploykit.core.errors import InputError
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import Cell
from deploykit.workflows.sweep import archive
from deploykit.workflows.sweep.cell_inputs import list_cell_files
from deploykit.workflows.sweep.node import ShippedFiles


class FileShipper:
    """Sends files to the object store, where they stay as long as this object exists."""

    def __init__(self, folder: Path, extra_paths: Sequence[str], progress: Progress) -> None:
        """`extra_paths` are files and folders in `folder` that every cell gets."""
        self._folder = folder
        self._progress = progress
        self._sent: dict[tuple[str, ...], ShippedFiles] = {}
        self._extra_files = {path: _list_extra_files(folder, path) for path in extra_paths}

    def ship_cell_files(self, cell: Cell) -> list[ShippedFiles]:
        """Ship the files that a cell names by relative paths; absolute paths refer to files on the node.

        InputError for a relative path that leads out of the folder.
        """
        cell_files = {
            argument: files
            for argument, files in list_cell_files(self._folder, cell).items()
            if not Path(argument).is_absolute()
        }
        return [self._ship_files(argument, files) for argument, files in {**cell_files, **self._extra_files}.items()]

    def _ship_files(self, argument: str, files: Sequence[Path]) -> ShippedFiles:
        import ray

        places = {os.path.relpath(path, self._folder): path for path in files}
        for place in places:
            if place.startswith(".."):
                raise InputError(
                    f"{argument} leads to {place} outside of {self._folder}; only files of that folder are sent.",
                    "Move it there, or put it at the same place on every node and give its absolute path.",
                )
        key = tuple(sorted(places))
        if key not in self._sent:
            with (
                self._progress.step(f"sending {argument}"),
                tempfile.TemporaryDirectory() as temporary,
                archive.pack_files(places, Path(temporary)) as packed,
            ):
                self._sent[key] = ShippedFiles(packed.label, [ray.put(piece) for piece in packed.pieces()])
        return self._sent[key]


def _list_extra_files(folder: Path, extra_path: str) -> tuple[Path, ...]:
    path = folder / extra_path
    files = tuple(sorted(file for file in path.rglob("*") if file.is_file())) if path.is_dir() else (path,)
    if Path(extra_path).is_absolute() or not all(file.is_file() for file in files) or not files:
        raise InputError(
            f"[fleet] ship: {extra_path} is missing from {folder}, or empty.",
            f"List files and folders relative to {folder}.",
        )
    return files
