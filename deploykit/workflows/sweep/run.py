"""Workflow of a sweep: skip finished cells, run the others, record each result as it arrives, compare all bundles."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import filelock
import msgspec

from deploykit.core.errors import InputError
from deploykit.core.files import explain_os_error
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import CellResult, Sweep, SweepResult
from deploykit.workflows import reporting
from deploykit.workflows.sweep import cell_inputs, record
from deploykit.workflows.sweep.outcome import Job

REPORT: Final = "report.html"

REMEDY: Final = "Choose another folder with -o."


class Executor(Protocol):
    """Runs cells, on this machine or on a cluster."""

    def run_jobs(self, jobs: Sequence[Job], destination: Path, force: bool) -> Iterator[CellResult]:
        """Run the jobs and yield each result as it becomes known; bundles are in `destination` by cell name."""
        ...


class SweepPlan(NamedTuple):
    """What a sweep would do."""

    known: dict[str, CellResult]
    """Results of cells that are already finished or refused, by name."""
    jobs: tuple[Job, ...]


def plan_sweep(sweep: Sweep, destination: Path) -> SweepPlan:
    """Determine which cells are finished and which must be run. Nothing is written."""
    previous, known, jobs = record.read_results(destination), {}, []
    for cell in sweep.cells:
        key, old = cell_inputs.compute_cell_key(Path(sweep.folder), cell), previous.get(cell.name)
        if cell.refusal is not None:
            known[cell.name] = CellResult(cell, key, "refused", cell.refusal)
        elif old is not None and record.is_up_to_date(destination, old, key):
            known[cell.name] = msgspec.structs.replace(old, cell=cell)
        else:
            jobs.append(Job(cell, key))
    return SweepPlan(known, tuple(jobs))


def run_sweep(
    sweep: Sweep,
    destination: Path,
    executor: Executor,
    force: bool,
    on_result: Callable[[CellResult], None],
    progress: Progress,
) -> SweepResult:
    """Run all cells that are not finished; a failing cell does not stop the others. `on_result` gets each new result.

    Ctrl-C stops early and keeps the finished cells. InputError if the destination cannot be written or another sweep
    is writing to it.
    """
    began, interrupted = time.monotonic(), False
    with _lock_destination(destination):
        known, jobs = plan_sweep(sweep, destination)
        results, reused = dict(known), sum(result.finished for result in known.values())
        with progress.step(f"{sweep.name}: {len(jobs)} of {len(sweep.cells)} cells", len(jobs)) as advance:
            try:
                with closing(_execute_jobs(executor, jobs, destination, force)) as new_results:
                    for result in new_results:
                        results[result.cell.name] = result
                        record.write_results(destination, {**record.read_results(destination), **results})
                        on_result(result)
                        advance()
            except KeyboardInterrupt:
                interrupted = True
        record.write_results(destination, {**record.read_results(destination), **results})
        waiting = {job.cell.name: CellResult(job.cell, job.key, "waiting") for job in jobs}
        all_results = tuple({**waiting, **results}[cell.name] for cell in sweep.cells)
        return SweepResult(
            str(destination),
            _write_report(destination, all_results),
            all_results,
            reused,
            time.monotonic() - began,
            interrupted,
        )


def _execute_jobs(executor: Executor, jobs: Sequence[Job], destination: Path, force: bool) -> Generator[CellResult]:
    yield from executor.run_jobs(jobs, destination, force) if jobs else ()


def _write_report(destination: Path, results: Sequence[CellResult]) -> str | None:
    """Write the comparison of all bundles; None if there is no bundle."""
    bundles = [destination / result.cell.name for result in results if result.finished]
    if not bundles:
        return None
    absent = {
        result.cell.name: result.error or "the sweep was interrupted before it ran"
        for result in results
        if not result.finished
    }
    path = destination / REPORT
    reporting.save_report(reporting.render_page(bundles, absent), path, force=False)
    return str(path)


@contextmanager
def _lock_destination(destination: Path) -> Iterator[None]:
    """Create the destination if necessary, and lock it for the duration of the block."""
    try:
        destination.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(destination / ".sweep.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(f"Another sweep is writing to {destination}.", f"Wait until it ends. {REMEDY}") from None
    except OSError as error:
        raise explain_os_error(error, destination, REMEDY) from error
    try:
        yield
    finally:
        lock.release()
