"""Measure under load: several callers at once, or calls that come whether or not those before them were answered.

    closed loop   each caller calls again as soon as it is answered. A call that stalls keeps its caller from making
                  those that would have stalled too: one slow duration is noted where an application had many.
    open loop     calls are due at the moments of a Poisson process, as from many users who know nothing of each other,
                  and the callers serve them in that order. A latency counts from the moment at which the call was due,
                  so that whoever waits for a stalled call is counted as well.

Warm-up is a closed loop of all callers in both: each of them has then made its first calls, which are slower where a
library gives every thread a context of its own.
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
from deploykit.core.values import Measured, Value
from deploykit.evaluate.latency.clock import MONOTONIC, Clock
from deploykit.evaluate.latency.measure import Series, Settings, Warmup, summed_up

Sleep: TypeAlias = Callable[[float], object]
"""Returns after so many seconds, or a little later; what is later counts as latency. Tests pass their own time."""

NAP_S: Final = 0.1
"""A caller that waits for a call to be due looks this often whether another has failed."""


class Load(Value, frozen=True):
    """How calls come."""

    threads: int = 1
    """Callers at once."""
    rate_per_s: float | None = None
    """Calls that are due per second, for all callers together; None: a closed loop."""
    seed: int = 0
    """Of the moments at which calls are due."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError("a load has a caller")
        if self.rate_per_s is not None and not 0 < self.rate_per_s < float("inf"):
            raise ValueError(f"a rate is finite and above 0, not {self.rate_per_s}")


class Loaded(NamedTuple):
    """The figures, and what a reader must know beside them."""

    measured: Measured
    statements: tuple[str, ...]


class Call(NamedTuple):
    """Nanoseconds of the clock; in a closed loop a call is due when it begins."""

    due: int
    began: int
    ended: int


def under_load(
    run: Callable[[], object],
    batch: int,
    load: Load,
    clock: Clock = MONOTONIC,
    sleep: Sleep = time.sleep,
    settings: Settings = Settings(),  # noqa: B008 - a frozen value
) -> Loaded:
    """Latency of `run`, which takes `batch` images, called by several threads at once. What it raises is raised here.

    UsageError where the rate is so low that no call is due.
    """
    course = _Course(load, settings, clock)
    callers = [threading.Thread(target=_caller, args=(run, course, clock, sleep)) for _ in range(load.threads)]
    for caller in callers:
        caller.start()
    try:
        for caller in callers:
            caller.join()
    finally:  # interrupted, too: nobody calls on behind the user's back
        course.stopped = True
        for caller in callers:
            caller.join()
    if course.failure is not None:
        raise course.failure
    return course.summed_up(batch)


def arrivals(load: Load, settings: Settings) -> list[int]:
    """When calls are due, in nanoseconds from the start on: a Poisson process, the same for the same seed."""
    assert load.rate_per_s is not None
    chance = np.random.default_rng(load.seed)
    moments: list[int] = []
    at_s = float(chance.exponential(1 / load.rate_per_s))
    while at_s <= settings.seconds_at_most:
        moments.append(math.ceil(at_s * 1e9))
        if len(moments) >= settings.iterations_at_least and at_s >= settings.seconds_at_least:
            break
        at_s += float(chance.exponential(1 / load.rate_per_s))
    if not moments:
        raise UsageError(
            f"At {load.rate_per_s:g} calls per second none is due within {settings.seconds_at_most:g} s.",
            "Choose a higher --rate or a longer --duration.",
        )
    return moments


def _caller(run: Callable[[], object], course: _Course, clock: Clock, sleep: Sleep) -> None:
    """One thread: its calls one after the other, until there are no more. Where one fails, all callers end."""
    try:
        while (turn := course.turn()) is not None:
            while turn.due is not None and (left := turn.due - clock()) > 0 and not course.stopped:
                sleep(min(left / 1e9, NAP_S))
            if course.stopped:
                return
            began = clock()
            run()
            course.add(turn, began, clock())
    except BaseException as error:
        course.failure = error
        course.stopped = True


class _Turn(NamedTuple):
    """Leave to make one call, at once or when it is due."""

    due: int | None


class _Course:
    """Where a measurement stands, for all callers: warming up, measuring, over. No lock is held while a call runs."""

    def __init__(self, load: Load, settings: Settings, clock: Clock) -> None:
        self.stopped = False  # every caller ends as soon as it is answered
        self.failure: BaseException | None = None
        self._load = load
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._due = deque(arrivals(load, settings)) if load.rate_per_s is not None else None
        self._began = self._window_began = clock()
        self._window: list[int] = []
        self._medians: list[float] = []
        self._warmup_calls = 0
        self._warmup: Warmup | None = None
        self._start = 0
        self._calls: list[Call] = []
        self._over = False

    def turn(self) -> _Turn | None:
        """The next call to make; None: there is none."""
        with self._lock:
            if self._over or self.stopped:
                return None
            if self._warmup is None or self._due is None:
                return _Turn(None)
            late = self._clock() - self._start >= self._settings.seconds_at_most * 1e9
            if late or not self._due:
                self._over = True
                return None
            return _Turn(self._start + self._due.popleft())

    def add(self, turn: _Turn, began: int, ended: int) -> None:
        """A call that was answered."""
        with self._lock:
            if self._warmup is None:
                self._warm(began, ended)
            elif turn.due is not None:
                self._calls.append(Call(turn.due, began, ended))
            elif self._due is None and not self._over:
                # Counted are calls that end while it is measured: of those that began before and of those that end
                # behind it there are as many, so that the throughput is neither too high nor too low.
                self._calls.append(Call(began, began, ended))
                elapsed = ended - self._start
                enough = len(self._calls) >= self._settings.iterations_at_least
                enough = enough and elapsed >= self._settings.seconds_at_least * 1e9
                self._over = enough or elapsed >= self._settings.seconds_at_most * 1e9

    def _warm(self, began: int, ended: int) -> None:
        """A window is over when its time is, and each caller had the time for a call in it."""
        self._window.append(ended - began)
        self._warmup_calls += 1
        if ended - self._window_began >= self._settings.window_s * 1e9 and len(self._window) >= self._load.threads:
            self._medians.append(statistics.median(self._window))
            self._window_began = ended
            longest = max(self._window)
            self._window.clear()
            settled = self._settings.settled(self._medians)
            if settled or ended - self._began >= self._settings.warmup_at_most_s * 1e9:
                self._warmup = Warmup(self._warmup_calls, settled)
                # An open loop starts when the other callers' last calls to warm up are over.
                self._start = ended if self._due is None or self._load.threads == 1 else ended + longest

    def summed_up(self, batch: int) -> Loaded:
        """The figures, once all callers have ended."""
        assert self._warmup is not None, "callers end by an error, or after the warm-up"
        calls = sorted(self._calls)
        elapsed = max(call.ended for call in calls) - self._start
        durations = [call.ended - call.due for call in calls]
        figures = summed_up(Series(durations, elapsed), batch, self._warmup)
        measured = msgspec.structs.replace(figures, threads=self._load.threads, rate_per_s=self._load.rate_per_s)
        if self._due is None:
            return Loaded(measured, ())
        return Loaded(measured, tuple(_shortfall(calls, self._start, len(self._due), self._load.threads)))


def _shortfall(calls: Sequence[Call], start: int, never_made: int, threads: int) -> list[str]:
    """That more was due than could be served, and what that makes of the figures.

    Calls take the time that they take: where those of a second take all callers more than a second, each has to wait
    longer than the one before.
    """
    statements = []
    due_per_s = len(calls) / ((calls[-1].due - start) / 1e9)
    served_per_s = len(calls) / ((max(call.ended for call in calls) - start) / 1e9)
    taken_s = sum(call.ended - call.began for call in calls) / len(calls) / 1e9
    if due_per_s * taken_s >= threads:
        statements.append(
            f"{due_per_s:.1f} calls were due per second and {served_per_s:.1f} were served: the backlog grew, so that "
            f"these latencies tell how long was measured, and not how fast an answer comes"
        )
    if never_made:
        statements.append(
            f"{never_made} calls that were due were not made when the time was over: no figure counts them, and with "
            f"them latencies were higher"
        )
    return statements
