"""The story of a sweep: what is finished stays, the rest is made, each result is kept as it comes, all are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import filelock
import msgspec

from deploykit.core.errors import InputError
from deploykit.core.files import explained
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import CellResult, Sweep, SweepResult
from deploykit.workflows import reporting
from deploykit.workflows.sweep import names, record
from deploykit.workflows.sweep.outcome import Job

REPORT: Final = "report.html"

REMEDY: Final = "Choose another folder with -o."


class Maker(Protocol):
    """Makes cells, wherever it does."""

    def make(self, jobs: Sequence[Job], destination: Path, force: bool) -> Iterator[CellResult]:
        """Each cell's result as soon as it is known; its bundle lies in `destination` under the cell's name."""
        ...


class Plan(NamedTuple):
    """What there is to do."""

    known: dict[str, CellResult]
    """Cells that are finished, and such as cannot be made, by name."""
    jobs: tuple[Job, ...]


def plan(sweep: Sweep, destination: Path) -> Plan:
    """What of a sweep is finished already, and what is to be made. Nothing is written."""
    before, known, jobs = record.read(destination), {}, []
    for cell in sweep.cells:
        key, old = names.key(Path(sweep.folder), cell), before.get(cell.name)
        if cell.refusal is not None:
            known[cell.name] = CellResult(cell, key, "refused", cell.refusal)
        elif old is not None and record.stands(destination, old, key):
            known[cell.name] = msgspec.structs.replace(old, cell=cell)
        else:
            jobs.append(Job(cell, key))
    return Plan(known, tuple(jobs))


def run(
    sweep: Sweep, destination: Path, maker: Maker, force: bool, told: Callable[[CellResult], None], progress: Progress
) -> SweepResult:
    """Make what is not finished. Whatever a cell comes to, the others are made; `told` hears of each at once.

    Ctrl-C ends it early, with what is finished. InputError where the destination cannot be written, or another sweep
    writes to it.
    """
    began, interrupted = time.monotonic(), False
    with _alone(destination):
        known, jobs = plan(sweep, destination)
        results, kept = dict(known), sum(result.finished for result in known.values())
        with progress.step(f"{sweep.name}: {len(jobs)} of {len(sweep.cells)} cells", len(jobs)) as advance:
            try:
                with closing(_made(maker, jobs, destination, force)) as making:
                    for result in making:
                        results[result.cell.name] = result
                        record.write(destination, {**record.read(destination), **results})
                        told(result)
                        advance()
            except KeyboardInterrupt:
                interrupted = True
        record.write(destination, {**record.read(destination), **results})
        waiting = {job.cell.name: CellResult(job.cell, job.key, "waiting") for job in jobs}
        everything = tuple({**waiting, **results}[cell.name] for cell in sweep.cells)
        return SweepResult(
            str(destination),
            _report(destination, everything),
            everything,
            kept,
            time.monotonic() - began,
            interrupted,
        )


def _made(maker: Maker, jobs: Sequence[Job], destination: Path, force: bool) -> Generator[CellResult]:
    yield from maker.make(jobs, destination, force) if jobs else ()


def _report(destination: Path, results: Sequence[CellResult]) -> str | None:
    """The comparison of all that is there."""
    bundles = [destination / result.cell.name for result in results if result.finished]
    if not bundles:
        return None
    absent = {each.cell.name: each.error or "the sweep was interrupted before" for each in results if not each.finished}
    path = destination / REPORT
    reporting.save(reporting.page(bundles, absent), path, force=False)
    return str(path)


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """The destination, made if need be, and nobody else's as long as the block lasts."""
    try:
        destination.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(destination / ".sweep.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(f"Another sweep is writing to {destination}.", f"Wait for it. {REMEDY}") from None
    except OSError as error:
        raise explained(error, destination, REMEDY) from error
    try:
        yield
    finally:
        lock.release()
