"""The results, step by step, as a table that reads well as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple


class Row(NamedTuple):
    """A finished step."""

    step: str
    built_for: str
    """Compiler and architecture."""
    result: str
    seconds: float
    passed: bool


HEAD: Final = ("step", "compiler and architecture", "result", "seconds", "")


def format_table(rows: Sequence[Row]) -> str:
    """Columns as wide as their longest cell; the last line has the sum of the seconds."""
    lines = [HEAD, *(format_row(row) for row in rows), ("all", "", "", f"{sum(row.seconds for row in rows):.0f}", "")]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |" for cells in lines
    )


def format_row(row: Row) -> tuple[str, ...]:
    result = row.result.replace("|", "\\|")
    return row.step, row.built_for, result, f"{row.seconds:.0f}", "ok" if row.passed else "FAILED"
