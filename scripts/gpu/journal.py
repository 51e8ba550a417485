"""What a child tells its parent: rows in a JSON file, whole after every word, so that a crash leaves it readable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
"""`kind` says what the others mean: machine, road, seen, graph, engine, receipt, parity, latency, failure, left_out or
note.
"""


class Journal:
    """Rows of one child, each stamped with its road and network, and what it was doing last."""

    def __init__(self, path: Path, road: str, network: str | None, seconds: float) -> None:
        self._path = path
        self._stamp: Row = {"road": road} | ({} if network is None else {"network": network})
        self._rows: list[Row] = []
        self._doing: str | None = None
        self._deadline = time.monotonic() + seconds
        self._write()

    def left(self) -> float:
        """Seconds until the parent's patience ends."""
        return self._deadline - time.monotonic()

    def row(self, kind: str, **said: Any) -> None:
        self._rows.append({"kind": kind, **self._stamp, **said})
        self._write()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """If the process dies inside, or an exception ends it, this is what it was doing."""
        before = self._doing
        self._turn_to(what)
        yield
        self._turn_to(before)

    def trying(self, what: str, act: Callable[[], None], **said: Any) -> bool:
        """Do it. A failure is a row and no more; False says that there was one."""
        before = self._doing
        try:
            with self.doing(what):
                act()
        except Exception as error:  # whatever a library throws is a finding here
            failed, self._doing = self._doing, before
            self.row("failure", doing=failed, why=last_line(error), **said)
            return False
        return True

    def _turn_to(self, what: str | None) -> None:
        self._doing = what
        self._write()

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"rows": self._rows, "doing": self._doing}), encoding="utf-8")
        partial.replace(self._path)


def last_line(error: BaseException) -> str:
    """`RuntimeError: CUDA driver version is insufficient`: the exception's name and the last line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
