"""Progress on stderr: bars on a terminal, nothing elsewhere; notes always."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from deploykit.report.terminal import console


class TerminalProgress:
    """A line per step. A step within a step has its line below, until it is done."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[counted]}"),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._depth = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """A spinner and the time it takes; a bar where the number of units is known."""
        task = self._bars.add_task("  " * self._depth + title, total=total, counted=f"0/{total}" if total else "")
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self._bars.update(task, completed=done, counted=f"{done}/{total}")

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
