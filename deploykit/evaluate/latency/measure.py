"""Measure the latency of a call: warm up until the last windows agree, then measure for a bounded time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from deploykit.core.values import Latency, Measurement, Value
from deploykit.evaluate.latency.clock import MONOTONIC, Clock
from deploykit.evaluate.latency.statistics import mean, percentile, standard_deviation


class Settings(Value, frozen=True):
    """Duration of warm-up and measurement.

    Warm-up consists of windows of at least `window_s`. It ends when the medians of the last `agreeing_windows` differ
    by no more than `agreement` of the smallest, or after `warmup_at_most_s`.
    """

    window_s: float = 0.1
    agreeing_windows: int = 3
    agreement: float = 0.05
    warmup_at_most_s: float = 20.0
    iterations_at_least: int = 50
    seconds_at_least: float = 2.0
    seconds_at_most: float = 30.0
    """Ends the measurement even before `iterations_at_least`: 50 calls of one second would take a minute."""

    def __post_init__(self) -> None:
        if self.agreeing_windows < 2 or self.iterations_at_least < 1:
            raise ValueError("agreeing_windows must be at least 2 and iterations_at_least at least 1")
        if min(self.window_s, self.agreement, self.warmup_at_most_s) < 0:
            raise ValueError("window_s, agreement and warmup_at_most_s must not be negative")
        if not 0 < self.seconds_at_least <= self.seconds_at_most:
            raise ValueError(
                f"seconds_at_least must be above 0 and at most seconds_at_most, not {self.seconds_at_least} and "
                f"{self.seconds_at_most}"
            )

    def settled(self, medians: Sequence[float]) -> bool:
        """Whether the last windows' medians agree."""
        last = medians[-self.agreeing_windows :]
        return len(last) == self.agreeing_windows and max(last) - min(last) <= self.agreement * min(last)


PROGRESS_STEPS: Final = 20
"""Steps in which the progress of a measurement is reported."""


class Warmup(NamedTuple):
    """The number of warm-up calls, and whether the last windows agreed."""

    iterations: int
    settled: bool


class Series(NamedTuple):
    """Durations of consecutive calls, and the time from the first start to the last end, in nanoseconds."""

    durations: list[int]
    elapsed: int


def measure_calls(
    run: Callable[[], object],
    batch: int,
    clock: Clock = MONOTONIC,
    settings: Settings = Settings(),  # noqa: B008 - a frozen value
    advance: Callable[[], None] = lambda: None,
) -> Measurement:
    """Measure `run`, a call that processes `batch` images from host memory and returns when the result is complete.

    `advance` is called between calls, once per completed step of `PROGRESS_STEPS`.
    """
    warmup = warm_up(run, clock, settings)
    series = _repeat_calls(
        run,
        clock,
        settings.seconds_at_least,
        settings.iterations_at_least,
        seconds_at_most=settings.seconds_at_most,
        advance=advance,
    )
    return summarize_calls(series, batch, warmup)


def summarize_calls(series: Series, batch: int, warmup: Warmup) -> Measurement:
    """Latency figures of calls with `batch` images each."""
    durations = series.durations
    latency = Latency(
        batch=batch,
        iterations=len(durations),
        warmup_iterations=warmup.iterations,
        p50_ms=percentile(durations, 50) / 1e6,
        p90_ms=percentile(durations, 90) / 1e6,
        p95_ms=percentile(durations, 95) / 1e6,
        p99_ms=percentile(durations, 99) / 1e6,
        mean_ms=mean(durations) / 1e6,
        deviation_ms=standard_deviation(durations) / 1e6,
        throughput_per_s=batch * len(durations) / (series.elapsed / 1e9),
        settled=warmup.settled,
    )
    return Measurement(latency, percentile(durations, 99.9) / 1e6, tuple(durations))


def warm_up(run: Callable[[], object], clock: Clock, settings: Settings) -> Warmup:
    """Run calls until the last windows agree, or until `warmup_at_most_s` is over."""
    medians: list[float] = []
    iterations = 0
    start = clock()
    while clock() - start < settings.warmup_at_most_s * 1e9:
        window = _repeat_calls(run, clock, settings.window_s, iterations_at_least=1)
        iterations += len(window.durations)
        medians.append(statistics.median(window.durations))
        if settings.settled(medians):
            return Warmup(iterations, settled=True)
    return Warmup(iterations, settled=False)


def _repeat_calls(
    run: Callable[[], object],
    clock: Clock,
    seconds_at_least: float,
    iterations_at_least: int,
    seconds_at_most: float = float("inf"),
    advance: Callable[[], None] = lambda: None,
) -> Series:
    durations: list[int] = []
    steps = 0
    start = clock()
    while True:
        durations.append(_time_call(run, clock))
        elapsed = clock() - start
        seconds = elapsed / 1e9
        time_share = seconds / seconds_at_least if seconds_at_least > 0 else 1.0
        completed = max(min(len(durations) / iterations_at_least, time_share), seconds / seconds_at_most)
        for _ in range(steps, min(int(completed * PROGRESS_STEPS), PROGRESS_STEPS)):
            steps += 1
            advance()
        if completed >= 1:
            return Series(durations, elapsed)


def _time_call(run: Callable[[], object], clock: Clock) -> int:
    start = clock()
    run()
    return clock() - start
