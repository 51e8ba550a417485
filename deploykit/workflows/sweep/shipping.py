"""Files that nodes lack: what cells name in the sweep's folder, put into the cluster's object store once each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploykit.core.errors import InputError
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import Cell
from deploykit.workflows.sweep import archive as parcel
from deploykit.workflows.sweep.names import named
from deploykit.workflows.sweep.node import Sent


class Shipping:
    """What was sent so far. The pieces stay in the store as long as this lives."""

    def __init__(self, folder: Path, further: Sequence[str], progress: Progress) -> None:
        """`further` are files and folders in `folder` that every cell gets."""
        self._folder = folder
        self._progress = progress
        self._sent: dict[tuple[str, ...], Sent] = {}
        self._further = {word: _within(folder, word) for word in further}

    def of(self, cell: Cell) -> list[Sent]:
        """All that a cell names by a relative path; an absolute one means what lies there on the node.

        InputError for a relative path that leads out of the folder.
        """
        found = {word: files for word, files in named(self._folder, cell).items() if not Path(word).is_absolute()}
        return [self._put(word, files) for word, files in {**found, **self._further}.items()]

    def _put(self, word: str, files: Sequence[Path]) -> Sent:
        import ray

        places = {os.path.relpath(path, self._folder): path for path in files}
        for place in places:
            if place.startswith(".."):
                raise InputError(
                    f"{word} leads to {place}, outside of {self._folder}: nodes get what lies in the sweep's folder.",
                    "Put it there, or on every node at the same place, and name that by an absolute path.",
                )
        key = tuple(sorted(places))
        if key not in self._sent:
            with (
                self._progress.step(f"sending {word}"),
                tempfile.TemporaryDirectory() as near,
                parcel.packed(places, Path(near)) as archive,
            ):
                self._sent[key] = Sent(archive.label, [ray.put(piece) for piece in archive.pieces()])
        return self._sent[key]


def _within(folder: Path, word: str) -> tuple[Path, ...]:
    path = folder / word
    files = tuple(sorted(each for each in path.rglob("*") if each.is_file())) if path.is_dir() else (path,)
    if Path(word).is_absolute() or not all(each.is_file() for each in files) or not files:
        raise InputError(
            f"[fleet] ship: there is no {word} in {folder}, or nothing in it.", "Name files and folders that lie there."
        )
    return files
