"""What runs on a node: the files of a cell laid out as they lie at home, the export, and its bundle as a stream."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deploykit.core import cache
from deploykit.core.values import Value
from deploykit.workflows.sweep import archive as parcel
from deploykit.workflows.sweep.archive import Label
from deploykit.workflows.sweep.process import PROGRAM, Ended, execute


class Task(Value, frozen=True):
    """One attempt at a cell."""

    name: str
    words: tuple[str, ...]
    execution: str
    timeout_s: float | None
    program: tuple[str, ...] | None
    """What starts the command line there; None: the node's own deploykit."""


class Answer(Value, frozen=True):
    """What comes before the pieces of the bundle."""

    host: str
    ended: Ended
    bundle: Label | None
    """None: there is none, and no piece follows."""


class Sent(NamedTuple):
    """Files on their way to nodes: a label, and the pieces in the cluster's object store."""

    label: Label
    pieces: Sequence[Any]
    """Ray's ObjectRefs, in order."""


def work(task: Task, sent: Sequence[Sent]) -> Iterator[Answer | bytes]:
    """Make the cell. First an answer, then the bundle in pieces, where there is one.

    What was sent is kept in the node's cache by its digest: the next cell finds it.
    """
    ground = cache.folder() / "cells"
    ground.mkdir(parents=True, exist_ok=True)
    _tidy(ground)
    with tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=ground, ignore_cleanup_errors=True) as made:
        place, bundle = Path(made) / "here", Path(made) / task.name
        place.mkdir()
        for each in sent:
            _lay(each, place)
        words = ("export", *task.words, "-o", str(bundle))
        ended = execute(task.program or PROGRAM, words, place, task.execution, task.timeout_s)
        if not ended.wrote:
            yield Answer(platform.node(), ended, None)
            return
        files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
        with parcel.packed(files, Path(made)) as archive:
            yield Answer(platform.node(), ended, archive.label)
            yield from archive.pieces()


def _lay(sent: Sent, place: Path) -> None:
    """The files under their own names in `place`, by links to where they are kept."""

    def build(folder: Path) -> None:
        import ray

        (folder / "files").mkdir()
        parcel.unpack((ray.get(piece) for piece in sent.pieces), sent.label, folder / "files")

    kept = cache.fetch("sent", {"sha256": sent.label.sha256}, build) / "files"
    shutil.copytree(kept, place, dirs_exist_ok=True, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    """One more name for the file. Two words of a cell may name the same; a file system without links gets a copy."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _tidy(ground: Path) -> None:
    """What killed workers left behind."""
    for left in ground.glob("*-*"):
        pid = left.name.partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)
