"""Progress as a library tells it: to the logger `deploykit`, which says nothing of it unless it is asked to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LOGGER: Final = logging.getLogger("deploykit")


class LoggedProgress:
    """Steps at the level INFO, when they begin; notes, which a user should read, at WARNING."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:  # noqa: ARG002 - no bar here
        """Its title; its units are not counted."""
        LOGGER.info("%s", title)
        yield lambda: None

    def note(self, text: str) -> None:
        """As a warning."""
        LOGGER.warning("%s", text)
