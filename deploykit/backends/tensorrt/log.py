"""TensorRT's error messages, without their source locations.

TensorRT registers one logger per process and also sends it messages of later builders and runtimes. So there is one log
per library, and callers read the errors that were added since a count they remember.
"""

from __future__ import annotations

import functools
import re
import threading
from collections import deque
from typing import Any, Final

ERRORS: Final = ("INTERNAL_ERROR", "ERROR")
"""Severities that are kept: there are thousands of other messages per build."""


class Log:
    """The last 1000 errors of one library; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[tuple[int, str]] = deque(maxlen=1000)
        self.count = 0
        """Number of errors so far: remembered by a caller before a call of the library."""

    def add_message(self, severity: str, text: str) -> None:
        """Called by the library, also from its own threads."""
        if severity in ERRORS:
            with self._lock:
                self._messages.append((self.count, text))
                self.count += 1

    def errors_since(self, since: int) -> tuple[str, ...]:
        """The distinct errors since `count` had that value, one line each."""
        with self._lock:
            return tuple(dict.fromkeys(clean_message(text) for number, text in self._messages if number >= since))


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
