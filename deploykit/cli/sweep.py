"""`deploykit sweep`"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from deploykit.core.values import Progress
    from deploykit.core.values.sweeps import Sweep, SweepResult
    from deploykit.workflows.sweep.run import Maker, Plan


@click.command("sweep")
@click.argument("file", type=click.Path(path_type=Path), metavar="SWEEP.TOML")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="A bundle per cell, and report.html; build/NAME of NAME.toml by default.")  # fmt: skip
@click.option("--ray", "address", metavar="ADDRESS", help="Make them on this Ray cluster: HOST:PORT, or auto.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="MINUTES", help="For one cell.")
@click.option("--force", is_flag=True, help="Replace bundles that were made differently.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, as command lines, and make nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON document.")
def command(
    file: Path,
    output: Path | None,
    address: str | None,
    timeout: float | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Networks × weights × precisions × targets × batches: a bundle for each combination, and one report.

    Each cell is an export in a process of its own. What is finished is never made again; a cell that fails does not
    stop the others. Exit 1 where a cell has no bundle or one that failed.
    """
    from deploykit.cli import sweep_file
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import sweep as text
    from deploykit.report import terminal
    from deploykit.report.document import document
    from deploykit.workflows.sweep import run

    sweep, progress = sweep_file.read(file), TerminalProgress()
    destination = output or Path("build") / sweep.name
    if dry_run:
        _say_plan(sweep, run.plan(sweep, destination), as_json)
        return 0
    maker = _maker(sweep, address, timeout, progress)
    result = run.run(sweep, destination, maker, force, lambda each: progress.done(text.line(each)), progress)
    if as_json:
        click.echo(document("sweep", result))
    else:
        out = terminal.console()
        out.print(text.table(result))
        if result.report is not None:
            out.print(f"{result.report} written", soft_wrap=True)
    return _exit_code(result)


def _maker(sweep: Sweep, address: str | None, timeout: float | None, progress: Progress) -> Maker:
    timeout_s = None if timeout is None else timeout * 60
    if address is None:
        from deploykit.workflows.sweep.local import Here

        return Here(Path(sweep.folder), progress, timeout_s)
    from deploykit.workflows.sweep.ray import Fleet

    return Fleet(address, Path(sweep.folder), sweep.fleet, progress, timeout_s)


def _exit_code(result: SweepResult) -> int:
    if result.interrupted:
        finished = sum(each.finished for each in result.cells)
        click.echo(
            f"Interrupted. {finished} of {len(result.cells)} cells are finished and stay in {result.folder}; "
            "the same command goes on from there.",
            err=True,
        )
        return 130
    return 0 if result.good else 1


def _say_plan(sweep: Sweep, found: Plan, as_json: bool) -> None:
    """The command line of each cell, as one would type it in the sweep's folder."""
    from deploykit.report.document import document

    if as_json:
        click.echo(document("sweep plan", sweep.cells))
        return
    for cell in sweep.cells:
        known = found.known.get(cell.name)
        state = "" if known is None else f"  # {'finished' if known.finished else f'refused: {known.error}'}"
        click.echo(f"deploykit export {shlex.join(cell.words)}{state}")
