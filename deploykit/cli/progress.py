"""Progress on stderr: bars on a terminal, one plain line per step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from deploykit.report.terminal import create_console

QUICK_S: Final = 2.0
"""Shortest time into a step, in seconds, at which the remaining time is estimated."""


class TerminalProgress:
    """A bar per step; a step within a step has its bar below, until it is done. Without a terminal, a line per step."""

    def __init__(self) -> None:
        self._console = create_console(stderr=True)
        columns = (
            SpinnerColumn(finished_text="✓"),
            TitleColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[counted]}"),
            TimeColumn(),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._depth = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Show a spinner and the elapsed time; if `total` is known, a bar and the remaining time."""
        counted = f"0/{total}" if total else ""
        if not self._console.is_terminal:
            self._console.print("  " * self._depth + title)
        task = self._bars.add_task("  " * self._depth + title, total=total, counted=counted, advanced_s=0.0)
        done, began = 0, time.monotonic()

        def advance() -> None:
            nonlocal done
            done += 1
            seconds = time.monotonic() - began
            self._bars.update(task, completed=done, counted=f"{done}/{total}", advanced_s=seconds)

        if self._depth == 0:
            self._bars.start()
        self._depth += 1
        try:
            yield advance
            self._bars.update(task, total=total or 1, completed=total or 1)
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._bars.stop()
            self._bars.remove_task(task)

    def done(self, text: str) -> None:
        """Print the result of a finished part of long work."""
        self._console.print(text)

    def note(self, text: str) -> None:
        """Print a note."""
        self._console.print(text, style="yellow")


class TitleColumn(ProgressColumn):
    """The step's title; on a narrow terminal it is the column that is cut."""

    def render(self, task: Task) -> Text:
        """Render it on one line, literally: brackets are not markup."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class TimeColumn(ProgressColumn):
    """Elapsed time, and remaining time if units are counted: `0:12, 0:30 left`."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Render both; the estimate assumes that the remaining units take as long as the finished ones."""
        elapsed = task.elapsed or 0.0
        text = _format_clock(elapsed)
        if elapsed >= QUICK_S and task.total and 0 < task.completed < task.total:
            left = task.fields["advanced_s"] / task.completed * task.total - elapsed
            text += f", {_format_clock(max(left, 0.0))} left"
        return Text(text, style="progress.elapsed")


def _format_clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
