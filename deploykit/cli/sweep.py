"""`deploykit sweep`"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from deploykit.core.values import Progress
    from deploykit.core.values.sweeps import Sweep, SweepResult
    from deploykit.workflows.sweep.run import Executor, SweepPlan


@click.command("sweep")
@click.argument("file", type=click.Path(path_type=Path), metavar="SWEEP.TOML")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder for the bundles and report.html (default: build/NAME for NAME.toml).")  # fmt: skip
@click.option("--ray", "address", metavar="ADDRESS", help="Run on this Ray cluster: HOST:PORT, or auto.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="MINUTES", help="Longest time for one cell."
)
@click.option("--force", is_flag=True, help="Replace bundles that were exported with other options.")
@click.option("--dry-run", is_flag=True, help="Print the command line of each cell, and export nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON document.")
def sweep_command(
    file: Path,
    output: Path | None,
    address: str | None,
    timeout: float | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Export every combination of networks, weights, precisions, targets and batches, with one report.

    Each combination is a cell: an export in a process of its own. Finished cells are not exported again; a cell that
    fails does not stop the others.

    Exit codes: 0 every cell has a bundle that passed, 1 a cell has no bundle or a failed one.
    """
    from deploykit.cli import sweep_file
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import next_steps, terminal
    from deploykit.report import sweep as text
    from deploykit.report.document import encode_document
    from deploykit.workflows.sweep import run

    sweep, progress = sweep_file.read_sweep(file), TerminalProgress()
    destination = output or Path("build") / sweep.name
    if dry_run:
        _print_plan(sweep, run.plan_sweep(sweep, destination), as_json)
        return 0
    executor = _create_executor(sweep, address, timeout, progress)
    result = run.run_sweep(
        sweep, destination, executor, force, lambda cell: progress.done(text.format_cell(cell)), progress
    )
    if as_json:
        click.echo(encode_document("sweep", result))
    else:
        out = terminal.create_console()
        out.print(text.render_sweep(result))
        if result.report is not None:
            out.print(f"{result.report} written", soft_wrap=True)
        if not result.good and not result.interrupted:
            out.print(next_steps.conclude_sweep(result))
    return _exit_code(result)


def _create_executor(sweep: Sweep, address: str | None, timeout: float | None, progress: Progress) -> Executor:
    timeout_s = None if timeout is None else timeout * 60
    if address is None:
        from deploykit.workflows.sweep.local import LocalExecutor

        return LocalExecutor(Path(sweep.folder), progress, timeout_s)
    from deploykit.workflows.sweep.ray import RayExecutor

    return RayExecutor(address, Path(sweep.folder), sweep.fleet, progress, timeout_s)


def _exit_code(result: SweepResult) -> int:
    if result.interrupted:
        finished = sum(cell.finished for cell in result.cells)
        click.echo(
            f"Interrupted. {finished} of {len(result.cells)} cells are finished and stay in {result.folder}; "
            "run the same command to continue.",
            err=True,
        )
        return 130
    return 0 if result.good else 1


def _print_plan(sweep: Sweep, plan: SweepPlan, as_json: bool) -> None:
    """Print the command line of each cell, after a `cd` if the sweep's folder is not the current one."""
    from deploykit.report.document import encode_document
    from deploykit.report.formatting import format_path

    if as_json:
        click.echo(encode_document("sweep plan", sweep.cells))
        return
    if Path(sweep.folder).resolve() != Path.cwd():
        click.echo(f"cd {format_path(Path(sweep.folder))}")
    for cell in sweep.cells:
        result = plan.known.get(cell.name)
        state = "" if result is None else f"  # {'finished' if result.finished else f'refused: {result.error}'}"
        click.echo(f"deploykit export {shlex.join(cell.export_arguments)}{state}")
