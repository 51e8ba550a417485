"""Progress on stderr: bars on a terminal, nothing elsewhere; notes always."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from deploykit.report.terminal import console

QUICK_S: Final = 2.0
"""A step that is over by then needs no estimate, and had none that means anything."""


class TerminalProgress:
    """A line per step, of one terminal line. A step within a step has its line below, until it is done."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        columns = (
            SpinnerColumn(finished_text="✓"),
            Title(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[counted]}"),
            Times(),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._depth = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """A spinner and the time it takes; where the number of units is known, a bar and the time that is left."""
        counted = f"0/{total}" if total else ""
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
        """A line that stays, of a part of long work that is finished."""
        self._console.print(text)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, style="yellow")


class Title(ProgressColumn):
    """What is done. It alone gives way where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        """On one line, as it is: a bracket is no markup."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class Times(ProgressColumn):
    """The time since the step began, and the time until it ends where units are counted: `0:12, 0:30 left`."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Estimated by the units so far: as long as each of them took, the others will take."""
        elapsed = task.elapsed or 0.0
        text = _clock(elapsed)
        if elapsed >= QUICK_S and task.total and 0 < task.completed < task.total:
            left = task.fields["advanced_s"] / task.completed * task.total - elapsed
            text += f", {_clock(max(left, 0.0))} left"
        return Text(text, style="progress.elapsed")


def _clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
