"""Work on samples, done by several threads a few samples ahead of the reader.

Threads and not processes: Pillow, zlib and hashlib let go of the interpreter while they work, and pixels need not be
copied between address spaces.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS: Final = 8
"""More gain nothing: what is left to the interpreter itself is done by one thread at a time."""

AHEAD: Final = 2
"""Results per worker that may wait for the reader: enough that no worker idles, few enough for any memory."""


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of each item, in the items' order.

    At most `limit()` items are taken beyond what the reader has got, however many there are. An exception is raised in
    the place of its item's result and ends the work; so does a reader that stops, and an interrupt: what has not begun
    is dropped, what has begun is waited for, which is one sample per worker.
    """
    pool = ThreadPoolExecutor(workers(), thread_name_prefix="samples")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == limit():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def workers() -> int:
    """As many threads as there are cores that this process may use, within reason."""
    # Where the system can say it: a container or a batch queue often grants fewer than the machine has.
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(granted, MOST_WORKERS)


def limit() -> int:
    """The most samples that are under way or waiting to be read."""
    return workers() * (1 + AHEAD)
