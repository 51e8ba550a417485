"""What a step reports to the program that started it: rows in a JSON file, complete after every write, so that a crash
leaves it readable.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
"""`kind` says what the other fields mean: machine, variant, validity, graph, engine, receipt, parity, latency, check,
failure, skipped or note.
"""


class Journal:
    """The rows of one step, each with the step's name and network, and its current activity."""

    def __init__(self, path: Path, step: str, network: str | None, seconds: float) -> None:
        self._path = path
        self._stamp: Row = {"step": step} | ({} if network is None else {"network": network})
        self._rows: list[Row] = []
        self._activity: str | None = None
        self._deadline = time.monotonic() + seconds
        self._ended = False
        self._write()

    def remaining_s(self) -> float:
        """Seconds until the step is ended."""
        return self._deadline - time.monotonic()

    def await_turn(self) -> None:
        """Wait until no other step uses the GPU: for the line on standard input that says how many seconds this step
        gets. What needs no GPU, such as imports, is done before; at the input's end the step ends, since nobody
        waits for it.
        """
        if not (line := sys.stdin.readline()):
            raise SystemExit("the program that started this step has ended")
        self._deadline = time.monotonic() + float(line)

    def end(self) -> None:
        """Say that the step did all that it could: a reader that is not its parent cannot ask for its exit code."""
        self._ended = True
        self._write()

    def add_row(self, kind: str, **fields: Any) -> None:
        self._rows.append({"kind": kind, **self._stamp, **fields})
        self._write()

    @contextmanager
    def activity(self, title: str) -> Iterator[None]:
        """Name what is being done: a process that dies inside, or an exception, is reported with this title."""
        before = self._activity
        self._set_activity(title)
        yield
        self._set_activity(before)

    def attempt(self, title: str, action: Callable[[], None], **fields: Any) -> bool:
        """Run `action`. A failure becomes a row and the step goes on; False says that there was one."""
        before = self._activity
        try:
            with self.activity(title):
                action()
        except Exception as error:  # whatever a library raises is a finding here
            failed, self._activity = self._activity, before
            self.add_row("failure", doing=failed, why=last_line(error), **fields)
            return False
        return True

    def _set_activity(self, title: str | None) -> None:
        self._activity = title
        self._write()

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(
            json.dumps({"rows": self._rows, "doing": self._activity, "ended": self._ended}), encoding="utf-8"
        )
        partial.replace(self._path)


def last_line(error: BaseException) -> str:
    """`RuntimeError: CUDA driver version is insufficient`: the exception's name and the last line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
