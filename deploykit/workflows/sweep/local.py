"""Executor on this machine: one cell after the other, so that latencies are measured without other load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from deploykit.core.errors import DeploykitError
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import Attempt, CellResult
from deploykit.workflows.sweep.outcome import Job, create_failed_result, create_finished_result
from deploykit.workflows.sweep.process import PROGRAM, run_process


class LocalExecutor:
    """Runs cells on this machine."""

    def __init__(
        self, folder: Path, progress: Progress, timeout_s: float | None = None, program: Sequence[str] = PROGRAM
    ) -> None:
        """Relative paths start from `folder`; `program` is the command that starts deploykit."""
        self._folder = folder
        self._progress = progress
        self._timeout_s = timeout_s
        self._program = program

    def run_jobs(self, jobs: Sequence[Job], destination: Path, force: bool) -> Iterator[CellResult]:
        """Run the jobs and yield each result as it becomes known; bundles are in `destination` by cell name."""
        for job in jobs:
            with self._progress.step(job.cell.name):
                yield self._make_bundle(job, destination / job.cell.name, force)

    def _make_bundle(self, job: Job, bundle: Path, force: bool) -> CellResult:
        execution = job.create_execution_id()
        arguments = (
            "export",
            *job.cell.export_arguments,
            "-o",
            str(bundle.absolute()),
            *(("--force",) if force else ()),
        )
        process = run_process(self._program, arguments, self._folder, execution, self._timeout_s)
        attempts = (Attempt(execution, "here", process.seconds),)
        try:
            return (
                create_finished_result(job, bundle, attempts)
                if process.wrote_bundle
                else create_failed_result(job, process.error, attempts)
            )
        except DeploykitError as error:
            return create_failed_result(job, str(error), attempts)
