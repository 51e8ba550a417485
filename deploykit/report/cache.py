"""Contents of the cache as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploykit.core.cache import CacheEntry, CacheInfo, CacheKind, ClearResult
from deploykit.report import terminal
from deploykit.report.formatting import format_bytes


def kinds_table(rows: Sequence[CacheKind]) -> Table | Text:
    """`deploykit cache ls`: a row per kind, and the total."""
    if not rows:
        return Text("the cache is empty")
    table = terminal.create_table("kind", "entries", "size", "last used", right=("entries", "size"), gap=2)
    for row in rows:
        table.add_row(row.kind, str(row.entries), format_bytes(row.bytes), _format_moment(row.used))
    total = sum(row.bytes for row in rows)
    table.add_row("all", str(sum(row.entries for row in rows)), format_bytes(total), "", style="bold")
    return table


def entries_table(rows: Sequence[CacheEntry]) -> Table | Text:
    """`deploykit cache ls KIND`: a row per entry, the most recently used first."""
    if not rows:
        return Text("no entries")
    table = terminal.create_table("entry", "size", "last used", right=("size",), gap=2)
    for row in rows:
        table.add_row(row.digest[:16], format_bytes(row.bytes), _format_moment(row.used))
    return table


def render_info(info: CacheInfo) -> Text:
    """`deploykit cache info`."""
    cap = "no limit" if info.cap_bytes is None else f"of at most {format_bytes(info.cap_bytes)}"
    lines = [
        info.folder,
        f"  {_count_entries(info.entries)}, {format_bytes(info.bytes)} {cap}",
        f"  {format_bytes(info.other_bytes)} of other files: timings, compiled kernels, locks",
        f"  {format_bytes(info.free_bytes)} free on the disk",
        *(f"  {name}{' is not set' if value is None else f'={value}'}" for name, value in info.variables.items()),
    ]
    return Text("\n".join(lines))


def render_cleared(cleared: ClearResult, unused_for: timedelta) -> Group:
    """`deploykit cache clear`: what was removed, and why the rest was kept."""
    text = Text(f"{_count_entries(cleared.entries)} removed, {format_bytes(cleared.bytes)} freed")
    if not cleared.spared_entries:
        return Group(text)
    rest = f"{_count_entries(cleared.spared_entries)} kept, {format_bytes(cleared.spared_bytes)}"
    return Group(text, terminal.render_note(f"{rest}: used within {_format_duration(unused_for)}, or in use now"))


def _count_entries(count: int) -> str:
    return f"{count} entry" if count == 1 else f"{count} entries"


def _format_moment(moment: datetime) -> str:
    """`2026-11-28 00:15`, in the user's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _format_duration(time: timedelta) -> str:
    """`1 hour`, `30 days`, in the largest unit that divides it."""
    seconds = int(time.total_seconds())
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            return f"{seconds // unit} {name}{'' if seconds == unit else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
