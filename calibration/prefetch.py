"""Multithreaded work on samples, a few samples ahead of the consumer.

Threads rather than processes: Pillow, zlib and hashlib release the GIL, and no pixels are copied between address
spaces.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKERS: Final = 8
"""More workers gain nothing: the GIL serialises the remaining Python code."""

RESULTS_PER_WORKER: Final = 2
"""Results per worker that may wait for the consumer: enough to keep workers busy, few enough for any memory."""


def prefetch_results(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `function` to each item on several threads, and yield the results in the items' order.

    At most `prefetch_limit()` items are in flight. An exception is raised in place of its item's result and ends the
    work, as do an interrupt and a consumer that stops: pending items are cancelled, and running ones (one per worker)
    are waited for.
    """
    pool = ThreadPoolExecutor(count_workers(), thread_name_prefix="samples")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == prefetch_limit():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def count_workers() -> int:
    """Number of threads: the cores available to this process, at most `MAX_WORKERS`."""
    # A container or batch queue often grants fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)


def prefetch_limit() -> int:
    """Largest number of samples that are being processed or waiting for the consumer."""
    return count_workers() * (1 + RESULTS_PER_WORKER)
