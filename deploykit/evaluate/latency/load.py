"""Latency under load: concurrent callers, or calls that arrive independently of earlier ones.

    closed loop   each caller calls again as soon as its call returns. A stalled call keeps its caller from making calls
                  that would have stalled too: one slow duration is recorded where an application would see many.
    open loop     calls arrive by a Poisson process, as from many independent users, and the callers serve them in
                  order. A latency counts from the arrival, so that calls waiting for a stalled one count as well.

Warm-up is a closed loop of all callers in both modes: each of them then makes its first calls, which are slower where a
library has a context per thread.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np

from deploykit.core.errors import UsageError
from deploykit.core.values import Measurement, Value
from deploykit.evaluate.latency.clock import MONOTONIC, Clock
from deploykit.evaluate.latency.measure import Series, Settings, Warmup, summarize_calls

Sleep: TypeAlias = Callable[[float], object]
"""Returns after so many seconds, or slightly later, which counts as latency. Tests pass a simulated one."""

POLL_S: Final = 0.1
"""Interval at which a waiting caller checks whether another has failed."""


class Load(Value, frozen=True):
    """The load: concurrency and arrival rate."""

    threads: int = 1
    """Concurrent callers."""
    rate_per_s: float | None = None
    """Open-loop arrival rate of all callers together; None: a closed loop."""
    seed: int = 0
    """Seed of the arrival times."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")
        if self.rate_per_s is not None and not 0 < self.rate_per_s < float("inf"):
            raise ValueError(f"rate_per_s must be finite and above 0, not {self.rate_per_s}")


class LoadResult(NamedTuple):
    """The figures, and caveats to them."""

    measured: Measurement
    caveats: tuple[str, ...]


class Call(NamedTuple):
    """Times in nanoseconds of the clock; in a closed loop a call arrives when it starts."""

    due: int
    start: int
    end: int


def measure_under_load(
    run: Callable[[], object],
    batch: int,
    load: Load,
    clock: Clock = MONOTONIC,
    sleep: Sleep = time.sleep,
    settings: Settings = Settings(),  # noqa: B008 - a frozen value
) -> LoadResult:
    """Measure `run`, which processes `batch` images, called by several threads at once. Its exceptions are raised here.

    UsageError where the rate is so low that no call arrives.
    """
    load_run = _LoadRun(load, settings, clock)
    callers = [threading.Thread(target=_run_caller, args=(run, load_run, clock, sleep)) for _ in range(load.threads)]
    for caller in callers:
        caller.start()
    try:
        for caller in callers:
            caller.join()
    finally:  # also after Ctrl-C: no thread continues in the background
        load_run.stopped = True
        for caller in callers:
            caller.join()
    if load_run.failure is not None:
        raise load_run.failure
    return load_run.summarize(batch)


def draw_arrivals(load: Load, settings: Settings) -> list[int]:
    """Arrival times in nanoseconds from the start: a Poisson process, reproducible by its seed."""
    assert load.rate_per_s is not None
    generator = np.random.default_rng(load.seed)
    times: list[int] = []
    time_s = float(generator.exponential(1 / load.rate_per_s))
    while time_s <= settings.seconds_at_most:
        times.append(math.ceil(time_s * 1e9))
        if len(times) >= settings.iterations_at_least and time_s >= settings.seconds_at_least:
            break
        time_s += float(generator.exponential(1 / load.rate_per_s))
    if not times:
        raise UsageError(
            f"At {load.rate_per_s:g} requests/s no call arrives within {settings.seconds_at_most:g} s.",
            "Choose a higher --rate or a longer --duration.",
        )
    return times


def _run_caller(run: Callable[[], object], load_run: _LoadRun, clock: Clock, sleep: Sleep) -> None:
    """Body of a caller's thread: consecutive calls until there are no more. If one fails, all callers end."""
    try:
        while (slot := load_run.next_slot()) is not None:
            while slot.due is not None and (wait_ns := slot.due - clock()) > 0 and not load_run.stopped:
                sleep(min(wait_ns / 1e9, POLL_S))
            if load_run.stopped:
                return
            start = clock()
            run()
            load_run.add_call(slot, start, clock())
    except BaseException as error:
        load_run.failure = error
        load_run.stopped = True


class _Slot(NamedTuple):
    """Permission to make one call: at `due`, or immediately where that is None."""

    due: int | None


class _LoadRun:
    """The state of a measurement, shared by all callers: warm-up, measurement, end. No lock is held during a call."""

    def __init__(self, load: Load, settings: Settings, clock: Clock) -> None:
        self.stopped = False  # every caller ends after its current call
        self.failure: BaseException | None = None
        self._load = load
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._due = deque(draw_arrivals(load, settings)) if load.rate_per_s is not None else None
        self._warmup_start = self._window_start = clock()
        self._window: list[int] = []
        self._medians: list[float] = []
        self._warmup_calls = 0
        self._warmup: Warmup | None = None
        self._start = 0
        self._calls: list[Call] = []
        self._over = False

    def next_slot(self) -> _Slot | None:
        """The next call to make; None where there are no more."""
        with self._lock:
            if self._over or self.stopped:
                return None
            if self._warmup is None or self._due is None:
                return _Slot(None)
            expired = self._clock() - self._start >= self._settings.seconds_at_most * 1e9
            if expired or not self._due:
                self._over = True
                return None
            return _Slot(self._start + self._due.popleft())

    def add_call(self, slot: _Slot, start: int, end: int) -> None:
        """Record a completed call."""
        with self._lock:
            if self._warmup is None:
                self._add_warmup_call(start, end)
            elif slot.due is not None:
                self._calls.append(Call(slot.due, start, end))
            elif self._due is None and not self._over:
                # Counts calls that end during the measurement: as many started before it as end after it, so that the
                # throughput is unbiased.
                self._calls.append(Call(start, start, end))
                elapsed = end - self._start
                enough = len(self._calls) >= self._settings.iterations_at_least
                enough = enough and elapsed >= self._settings.seconds_at_least * 1e9
                self._over = enough or elapsed >= self._settings.seconds_at_most * 1e9

    def _add_warmup_call(self, start: int, end: int) -> None:
        """Record a warm-up call. A window ends after its time, and after as many calls as there are callers."""
        self._window.append(end - start)
        self._warmup_calls += 1
        if end - self._window_start >= self._settings.window_s * 1e9 and len(self._window) >= self._load.threads:
            self._medians.append(statistics.median(self._window))
            self._window_start = end
            longest = max(self._window)
            self._window.clear()
            settled = self._settings.settled(self._medians)
            if settled or end - self._warmup_start >= self._settings.warmup_at_most_s * 1e9:
                self._warmup = Warmup(self._warmup_calls, settled)
                # An open loop starts when the other callers' last warm-up calls have ended.
                self._start = end if self._due is None or self._load.threads == 1 else end + longest

    def summarize(self, batch: int) -> LoadResult:
        """The figures, after all callers have ended."""
        assert self._warmup is not None, "callers end by an error, or after the warm-up"
        calls = sorted(self._calls)
        elapsed = max(call.end for call in calls) - self._start
        durations = [call.end - call.due for call in calls]
        figures = summarize_calls(Series(durations, elapsed), batch, self._warmup)
        measured = msgspec.structs.replace(figures, threads=self._load.threads, rate_per_s=self._load.rate_per_s)
        if self._due is None:
            return LoadResult(measured, ())
        return LoadResult(measured, tuple(_describe_shortfall(calls, self._start, len(self._due), self._load.threads)))


def _describe_shortfall(calls: Sequence[Call], start: int, never_made: int, threads: int) -> list[str]:
    """Caveats of an overload: more calls arrived than could be served.

    Where the calls that arrive per second keep all callers busy for more than a second, each call waits longer than the
    one before.
    """
    caveats = []
    arrived_per_s = len(calls) / ((calls[-1].due - start) / 1e9)
    served_per_s = len(calls) / ((max(call.end for call in calls) - start) / 1e9)
    mean_s = sum(call.end - call.start for call in calls) / len(calls) / 1e9
    if arrived_per_s * mean_s >= threads:
        caveats.append(
            f"{arrived_per_s:.1f} requests/s arrived and {served_per_s:.1f} were served: the backlog grew, so these "
            f"latencies reflect the duration of the measurement, not the response time"
        )
    if never_made:
        caveats.append(
            f"{never_made} requests were still waiting when the time was over: they are not counted, and would have "
            f"increased the latencies"
        )
    return caveats
