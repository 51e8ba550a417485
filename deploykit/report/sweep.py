"""A sweep as text: a line as each cell ends, and a table of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploykit.core.values.sweeps import CellResult, CellState, SweepResult
from deploykit.report.terminal import note

STYLES: dict[CellState, str] = {
    "passed": "green", "marked": "bold red", "failed": "bold red", "refused": "yellow", "waiting": "none",
}  # fmt: skip

WORDS: dict[CellState, str] = {
    "passed": "passed", "marked": "FAILED", "failed": "no bundle", "refused": "refused", "waiting": "not made",
}  # fmt: skip


def line(result: CellResult) -> str:
    """`resnet18-int8-openvino: passed, SNR 25.4 dB, 48 s`, as soon as it is known, and what is wrong with it: the
    table comes when all are made.
    """
    figures = result.figures
    parts = [WORDS[result.state]]
    if figures is not None and figures.snr_db is not None:
        parts.append(f"SNR {figures.snr_db:.1f} dB")
    if result.attempts:
        parts.append(f"{result.seconds:.0f} s")
    if len(result.attempts) > 1:
        parts.append(f"begun {len(result.attempts)} times")
    why = "" if result.error is None else f": {result.error}"
    return f"{result.cell.name}: {', '.join(parts)}{why}"


def table(result: SweepResult) -> Group:
    """A row per cell, and below it what must be read: errors, refusals, attempts that were lost, other versions."""
    return Group(_rows(result.cells), *_errors(result.cells), *_notes(result.cells))


def _rows(results: Sequence[CellResult]) -> Table:
    rows = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in ("cell", "verdict", "SNR dB", "top-1", "p50 ms", "seconds"):
        right = column not in ("cell", "verdict")
        rows.add_column(column, overflow="fold", justify="right" if right else "left", no_wrap=right)
    for result in results:
        figures = result.figures
        snr = top1 = p50 = ""
        if figures is not None:
            snr = "∞" if figures.snr_db is None else f"{figures.snr_db:.1f}"
            top1 = "" if figures.top1_agreement is None else f"{figures.top1_agreement:.0%}"
            p50 = "" if figures.p50_ms is None else f"{figures.p50_ms:.2f}"
        seconds = f"{result.seconds:.0f}" if result.attempts else ""
        state = Text(WORDS[result.state], STYLES[result.state])
        rows.add_row(result.cell.name, state, snr, top1, p50, seconds)
    return rows


def _errors(results: Sequence[CellResult]) -> Iterator[RenderableType]:
    """Why cells have no bundle or one that failed; equal reasons once."""
    reasons: dict[tuple[CellState, str], list[str]] = {}
    for result in results:
        if result.error is not None:
            reasons.setdefault((result.state, result.error), []).append(result.cell.name)
    for (state, why), names in reasons.items():
        yield Text(f"{', '.join(names)}: {WORDS[state]}: {why}", STYLES[state])


def _notes(results: Sequence[CellResult]) -> Iterator[RenderableType]:
    for result in results:
        lost = [attempt for attempt in result.attempts if attempt.lost is not None]
        for why in dict.fromkeys(attempt.lost for attempt in lost):
            places = ", ".join(f"{each.node} after {each.seconds:.0f} s" for each in lost if each.lost == why)
            yield note(f"{result.cell.name} was lost on {places}: {why}")
    for statement in dict.fromkeys(statement for result in results for statement in result.statements):
        yield note(statement)
