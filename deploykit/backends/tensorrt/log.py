"""What TensorRT says while it works, and its sentences without places in NVIDIA's sources.

TensorRT registers one logger per process and keeps telling it things that belong to later builders and runtimes, so
there is one per library here, and whoever wants to quote it listens for a while.
"""

from __future__ import annotations

import functools
import re
import threading
from collections import deque
from typing import Any, Final

ERRORS: Final = ("INTERNAL_ERROR", "ERROR")
"""Severities that are kept: of the others there are thousands per build."""


class Log:
    """The errors of one library, the last of them; any thread may speak."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: deque[tuple[int, str]] = deque(maxlen=1000)
        self.count = 0
        """Of all errors so far: what a caller remembers before it asks the library for something."""

    def add(self, severity: str, text: str) -> None:
        """Called by the library, from threads of its own too."""
        if severity in ERRORS:
            with self._lock:
                self._told.append((self.count, text))
                self.count += 1

    def errors(self, since: int) -> tuple[str, ...]:
        """What went wrong since `count` was that, each in one line and only once."""
        with self._lock:
            return tuple(dict.fromkeys(plain(text) for number, text in self._told if number >= since))


@functools.cache
def log_of(trt: Any) -> tuple[Log, Any]:
    """The log of that module, and the ILogger that its builders, parsers and runtimes are given."""
    log = Log()

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return log, Logger()


PLACE: Final = re.compile(r"\s*\bIn \S+ at /?\S+\.(?:cpp|h|cu):\d+|\[[^\[\]]*\.(?:cpp|h|cu):[^\[\]]*\]\s*")
"""`In validate at /_src/optimizer/api/network.cpp:4023`, `[codeGenerator.cpp::createMyelinGraph::1203]`."""

CODED: Final = re.compile(r"Error Code \d+: (?P<kind>[^(]*?)\s*\((?P<told>.*)\)?\s*$")
"""`Error Code 4: API Usage Error (Network must have at least one output.)`."""

UNTOLD: Final = ("", "no further information")


def plain(text: str) -> str:
    """A message in one line: no places in sources, no function names, no full stop."""
    line = " ".join(PLACE.sub("", text).split())
    if found := CODED.search(line):
        told = _unwrapped(found["told"])
        line = found["kind"] if told in UNTOLD else told
    return line.rstrip(" .:")


def _unwrapped(text: str) -> str:
    """Without the parenthesis that the whole stood in, and what is left of a nested one."""
    text = text.strip()
    while text.count(")") > text.count("(") and text.endswith(")"):
        text = text[:-1].strip()
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    return text.strip(" .")
