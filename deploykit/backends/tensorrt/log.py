"""TensorRT's error messages, without their source locations.

TensorRT registers one logger per process and also sends it messages of later builders and runtimes. So there is one log
per library, and callers read the errors that were added since a count they remember.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import Any, Final

ERRORS: Final = ("INTERNAL_ERROR", "ERROR")
"""Severities that are kept: there are thousands of other messages per build."""


class Log:
    """The last 1000 errors of one library; thread-safe.

    The library may report an error while this thread reads the log: the garbage collector may destroy an
    execution context anywhere. So messages arrive in a queue whose `put` takes no lock and may interrupt a method.
    """

    def __init__(self) -> None:
        self._arrivals: SimpleQueue[str] = SimpleQueue()
        self._lock = threading.RLock()
        self._messages: deque[tuple[int, str]] = deque(maxlen=1000)
        self._count = 0

    def add_message(self, severity: str, text: str) -> None:
        """Called by the library, also from its own threads."""
        if severity in ERRORS:
            self._arrivals.put(text)

    @property
    def count(self) -> int:
        """Number of errors so far: remembered by a caller before a call of the library."""
        with self._lock:
            self._number_arrivals()
            return self._count

    def errors_since(self, since: int) -> tuple[str, ...]:
        """The distinct errors since `count` had that value, one line each."""
        with self._lock:
            self._number_arrivals()
            return tuple(dict.fromkeys(clean_message(text) for number, text in self._messages if number >= since))

    def _number_arrivals(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._messages.append((self._count, self._arrivals.get_nowait()))
                self._count += 1


@functools.cache
def get_log(trt: Any) -> tuple[Log, Any]:
    """The log of that module, and the ILogger to pass to its builders, parsers and runtimes."""
    log = Log()

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add_message(severity.name, msg)

    return log, Logger()


SOURCE_PLACE: Final = re.compile(r"\s*\bIn \S+ at /?\S+\.(?:cpp|h|cu):\d+|\[[^\[\]]*\.(?:cpp|h|cu):[^\[\]]*\]\s*")
"""`In validate at /_src/optimizer/api/network.cpp:4023`, `[codeGenerator.cpp::createMyelinGraph::1203]`."""

ERROR_CODE: Final = re.compile(r"Error Code \d+: (?P<kind>[^(]*?)\s*\((?P<reason>.*)\)?\s*$")
"""`Error Code 4: API Usage Error (Network must have at least one output.)`."""

EMPTY_REASONS: Final = ("", "no further information")


def clean_message(text: str) -> str:
    """Reduce a message to one line without source locations, function names and the final full stop."""
    line = " ".join(SOURCE_PLACE.sub("", text).split())
    if match := ERROR_CODE.search(line):
        reason = _strip_parentheses(match["reason"])
        line = match["kind"] if reason in EMPTY_REASONS else reason
    return line.rstrip(" .:")


def _strip_parentheses(text: str) -> str:
    """Remove the parentheses around the whole text, and unbalanced closing ones."""
    text = text.strip()
    while text.count(")") > text.count("(") and text.endswith(")"):
        text = text[:-1].strip()
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    return text.strip(" .")
