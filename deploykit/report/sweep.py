"""A sweep as text: a line when a cell ends, and a table of all cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploykit.core.values.sweeps import CellResult, CellState, SweepResult
from deploykit.report.terminal import create_table, render_note

STYLES: dict[CellState, str] = {
    "passed": "green", "marked": "bold red", "failed": "bold red", "refused": "yellow", "waiting": "none",
}  # fmt: skip

STATES: dict[CellState, str] = {
    "passed": "passed", "marked": "FAILED", "failed": "no bundle", "refused": "refused", "waiting": "not run",
}  # fmt: skip


def format_cell(result: CellResult) -> str:
    """`resnet18-int8-openvino: passed, SNR 25.4 dB, 48 s` and the error, printed when the cell ends."""
    figures = result.figures
    parts = [STATES[result.state]]
    if figures is not None and figures.snr_db is not None:
        parts.append(f"SNR {figures.snr_db:.1f} dB")
    if result.attempts:
        parts.append(f"{result.seconds:.0f} s")
    if len(result.attempts) > 1:
        parts.append(f"{len(result.attempts)} attempts")
    why = "" if result.error is None else f": {result.error}"
    return f"{result.cell.name}: {', '.join(parts)}{why}"


def render_sweep(result: SweepResult) -> Group:
    """A row per cell, then errors, refusals, lost attempts and caveats."""
    return Group(_cells_table(result.cells), *_error_lines(result.cells), *_attempt_notes(result.cells))


def _cells_table(results: Sequence[CellResult]) -> Table:
    right = ("SNR dB", "top-1", "p50 ms", "seconds")
    rows = create_table("cell", "verdict", *right, right=right)
    for result in results:
        figures = result.figures
        snr = top1 = p50 = ""
        if figures is not None:
            snr = "∞" if figures.snr_db is None else f"{figures.snr_db:.1f}"
            top1 = "" if figures.top1_agreement is None else f"{figures.top1_agreement:.0%}"
            p50 = "" if figures.p50_ms is None else f"{figures.p50_ms:.2f}"
        seconds = f"{result.seconds:.0f}" if result.attempts else ""
        state = Text(STATES[result.state], STYLES[result.state])
        rows.add_row(result.cell.name, state, snr, top1, p50, seconds)
    return rows


def _error_lines(results: Sequence[CellResult]) -> Iterator[RenderableType]:
    """Why cells have no bundle or a failed one; equal reasons are printed once."""
    reasons: dict[tuple[CellState, str], list[str]] = {}
    for result in results:
        if result.error is not None:
            reasons.setdefault((result.state, result.error), []).append(result.cell.name)
    for (state, why), names in reasons.items():
        yield Text(f"{', '.join(names)}: {STATES[state]}: {why}", STYLES[state])


def _attempt_notes(results: Sequence[CellResult]) -> Iterator[RenderableType]:
    for result in results:
        lost: dict[str, list[str]] = {}
        for attempt in result.attempts:
            if attempt.lost_reason is not None:
                lost.setdefault(attempt.lost_reason, []).append(f"{attempt.node} after {attempt.seconds:.0f} s")
        for reason, places in lost.items():
            yield render_note(f"{result.cell.name} was lost on {', '.join(places)}: {reason}")
    for caveat in dict.fromkeys(caveat for result in results for caveat in result.caveats):
        yield render_note(caveat)
