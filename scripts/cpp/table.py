"""What was seen, step by step, as a table that is read as it is and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple


class Row(NamedTuple):
    """A step that is over."""

    step: str
    built_for: str
    """Compiler and architecture."""
    seen: str
    seconds: float
    passed: bool


HEAD: Final = ("step", "compiler and architecture", "seen", "seconds", "")


def table(rows: Sequence[Row]) -> str:
    """Columns as wide as they must be; the last line has the sum of the seconds."""
    lines = [HEAD, *(line(row) for row in rows), ("all", "", "", f"{sum(row.seconds for row in rows):.0f}", "")]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |" for cells in lines
    )


def line(row: Row) -> tuple[str, ...]:
    seen = row.seen.replace("|", "\\|")
    return row.step, row.built_for, seen, f"{row.seconds:.0f}", "ok" if row.passed else "FAILED"
