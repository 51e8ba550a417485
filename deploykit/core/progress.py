"""Progress of library calls, sent to the logger `deploykit`, which is silent by default."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LOGGER: Final = logging.getLogger("deploykit")


class LoggedProgress:
    """Log the start of each step at level INFO, and notes to the user at level WARNING."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:  # noqa: ARG002 - no bar here
        """Log the title; units are not counted."""
        LOGGER.info("%s", title)
        yield lambda: None

    def note(self, text: str) -> None:
        """Log the text as a warning."""
        LOGGER.warning("%s", text)
