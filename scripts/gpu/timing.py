"""How a call is timed, the same for every variant: warm-up by the clock, then single calls, each waited for.

On device: from a CUDA event before the call's work to one after it, on data that is on the GPU already. By the host:
the same calls by the host's clock, until the last event has passed. End to end: from host memory to host memory, by the
host's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

BATCHES: Final = (1, 8, 32)

WARM_UP_S: Final = 0.2
"""Least time that a GPU is kept busy before it is timed: it leaves its idle clocks meanwhile."""

MEASURE_S: Final = 0.2
CALLS_AT_LEAST: Final = 10
CALLS_AT_MOST: Final = 300

Figures = dict[str, float]
"""Milliseconds by percentile: p50, p90, p99."""

EVENTS: Final = "CUDA events"


def warm_up(call: Callable[[], object], seconds: float) -> float:
    """Call for so many seconds, three times at least; the seconds of one of the last calls."""
    end, last = time.perf_counter() + seconds, 0.0
    count = 0
    while count < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        last = time.perf_counter() - start
        count += 1
    return last


def count_calls(once_s: float) -> int:
    """Calls that fit MEASURE_S, within bounds."""
    return min(max(int(MEASURE_S / max(once_s, 1e-6)), CALLS_AT_LEAST), CALLS_AT_MOST)


def time_by_host(call: Callable[[], object], seconds: float) -> tuple[Figures, int]:
    """Figures of single calls by the host's clock after a warm-up, and the number of calls."""
    times = []
    for _ in range(count_calls(warm_up(call, seconds))):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return compute_percentiles(times), len(times)


def time_on_stream(launch: Callable[[], object], stream: Any) -> dict[str, Any]:
    """A latency row's fields: `launch` puts one call's work on this stream of PyTorch's and need not wait for it."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def call() -> tuple[float, float, float]:
        before = time.perf_counter()
        start.record(stream)
        launch()
        end.record(stream)
        enqueued = time.perf_counter()
        end.synchronize()
        after = time.perf_counter()
        return start.elapsed_time(end), 1e3 * (after - before), 1e3 * (enqueued - before)

    calls = count_calls(warm_up(call, WARM_UP_S))
    device, host, enqueue = zip(*(call() for _ in range(calls)), strict=True)
    return {
        "on_device_ms": compute_percentiles(device),
        "host_ms": compute_percentiles(host),
        "parts_p50_ms": {"enqueue": compute_percentiles(enqueue)["p50"]},
        "calls": calls,
        "timed_by": EVENTS,
    }


def compute_percentiles(milliseconds: Sequence[float]) -> Figures:
    from deploykit.evaluate.latency.statistics import percentile

    nanoseconds = [round(1e6 * ms) for ms in milliseconds]
    return {f"p{share}": percentile(nanoseconds, share) / 1e6 for share in (50, 90, 99)}
