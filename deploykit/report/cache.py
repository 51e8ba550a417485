"""What the cache holds, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.table import Table
from rich.text import Text

from deploykit.core.cache import CacheEntry, CacheInfo, CacheKind, Cleared
from deploykit.report import terminal


def kinds(rows: Sequence[CacheKind]) -> Table | Text:
    """`deploykit cache ls`: a row per kind, and their sum."""
    if not rows:
        return Text("the cache is empty")
    table = _table("kind", "entries", "size", "last used")
    for row in rows:
        table.add_row(row.kind, str(row.entries), terminal.size(row.bytes), _moment(row.used))
    total = sum(row.bytes for row in rows)
    table.add_row("all", str(sum(row.entries for row in rows)), terminal.size(total), "", style="bold")
    return table


def entries(rows: Sequence[CacheEntry]) -> Table | Text:
    """`deploykit cache ls KIND`: a row per entry, the last used first."""
    if not rows:
        return Text("no entries")
    table = _table("entry", "size", "last used")
    for row in rows:
        table.add_row(row.digest[:16], terminal.size(row.bytes), _moment(row.used))
    return table


def info(found: CacheInfo) -> Text:
    """`deploykit cache info`."""
    cap = "no cap" if found.cap_bytes is None else f"of at most {terminal.size(found.cap_bytes)}"
    lines = [
        found.folder,
        f"  {_entries(found.entries)}, {terminal.size(found.bytes)} {cap}",
        f"  {terminal.size(found.other_bytes)} beside them: timings, compiled kernels, locks",
        f"  {terminal.size(found.free_bytes)} free on its disk",
        *(f"  {name}{' is not set' if value is None else f'={value}'}" for name, value in found.variables.items()),
    ]
    return Text("\n".join(lines))


def cleared(gone: Cleared, unused_for: timedelta) -> Text:
    """`deploykit cache clear`: what went, and why the rest stayed."""
    text = Text(f"{_entries(gone.entries)} removed, {terminal.size(gone.bytes)} freed")
    if gone.spared_entries:
        stayed = f"{_entries(gone.spared_entries)} stayed, {terminal.size(gone.spared_bytes)}"
        text.append("\n").append_text(terminal.note(f"{stayed}: used within {_span(unused_for)}, or in use now"))
    return text


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in ("entries", "size") else "left", overflow="fold")
    return table


def _entries(count: int) -> str:
    return f"{count} entry" if count == 1 else f"{count} entries"


def _moment(moment: datetime) -> str:
    """In the user's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _span(time: timedelta) -> str:
    """`1 hour`, `30 days`, in the largest unit that divides it."""
    seconds = int(time.total_seconds())
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            return f"{seconds // unit} {name}{'' if seconds == unit else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
