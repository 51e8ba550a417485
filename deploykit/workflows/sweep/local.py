"""Cells made on this machine, one after the other: nothing runs beside the one that is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from deploykit.core.errors import DeploykitError
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import Attempt, CellResult
from deploykit.workflows.sweep.outcome import Job, failed, made
from deploykit.workflows.sweep.process import PROGRAM, execute


class Here:
    """The maker of cells that needs no cluster."""

    def __init__(
        self, folder: Path, progress: Progress, timeout_s: float | None = None, program: Sequence[str] = PROGRAM
    ) -> None:
        """`folder` is where relative paths start from; `program` starts deploykit's command line."""
        self._folder = folder
        self._progress = progress
        self._timeout_s = timeout_s
        self._program = program

    def make(self, jobs: Sequence[Job], destination: Path, force: bool) -> Iterator[CellResult]:
        """Each cell's result as soon as it is known; its bundle lies in `destination` under the cell's name."""
        for job in jobs:
            with self._progress.step(job.cell.name):
                yield self._one(job, destination / job.cell.name, force)

    def _one(self, job: Job, bundle: Path, force: bool) -> CellResult:
        execution = job.execution()
        words = ("export", *job.cell.words, "-o", str(bundle.absolute()), *(("--force",) if force else ()))
        ended = execute(self._program, words, self._folder, execution, self._timeout_s)
        attempts = (Attempt(execution, "here", ended.seconds),)
        try:
            return made(job, bundle, attempts) if ended.wrote else failed(job, ended.error, attempts)
        except DeploykitError as error:
            return failed(job, str(error), attempts)
