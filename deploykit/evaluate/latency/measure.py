"""Measure a call: warm up until the last windows agree, then measure long enough, and never for ever."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from deploykit.core.values import Latency, Measured, Value
from deploykit.evaluate.latency.clock import MONOTONIC, Clock
from deploykit.evaluate.latency.statistics import deviation, mean, percentile


class Settings(Value, frozen=True):
    """When warm-up is over and when enough was measured.

    Warm-up is a row of windows, each at least `window_s` long. It is over when the medians of the last
    `agreeing_windows` differ by no more than `agreement` of the smallest, or after `warmup_at_most_s`.
    """

    window_s: float = 0.1
    agreeing_windows: int = 3
    agreement: float = 0.05
    warmup_at_most_s: float = 20.0
    iterations_at_least: int = 50
    seconds_at_least: float = 2.0
    seconds_at_most: float = 30.0
    """Ends the measurement even before `iterations_at_least`: a call of a second would else take a minute."""

    def __post_init__(self) -> None:
        if self.agreeing_windows < 2 or self.iterations_at_least < 1:
            raise ValueError("windows agree when there are two, and a measurement has an iteration")
        if min(self.window_s, self.agreement, self.warmup_at_most_s) < 0:
            raise ValueError("windows, their agreement and the time to warm up are not negative")
        if not 0 < self.seconds_at_least <= self.seconds_at_most:
            raise ValueError(
                f"a measurement takes more than 0 s; at least {self.seconds_at_least} s is no more than "
                f"at most {self.seconds_at_most} s"
            )

    def settled(self, medians: Sequence[float]) -> bool:
        """Whether the last windows, whose medians these are, agree."""
        last = medians[-self.agreeing_windows :]
        return len(last) == self.agreeing_windows and max(last) - min(last) <= self.agreement * min(last)


PARTS: Final = 20
"""Of a measurement, for whoever waits for it."""


class Warmup(NamedTuple):
    """How many calls warm-up took, and whether its last windows agreed."""

    iterations: int
    settled: bool


class Series(NamedTuple):
    """Durations of calls made one after the other, and the time from the first start to the last end; nanoseconds."""

    durations: list[int]
    elapsed: int


def measure(
    run: Callable[[], object],
    batch: int,
    clock: Clock = MONOTONIC,
    settings: Settings = Settings(),  # noqa: B008 - a frozen value
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """Latency of `run`, a call that takes `batch` images from host memory and returns when the result is there.

    `advance` is called, between calls, whenever another of `PARTS` of the measurement is done.
    """
    warmup = warm_up(run, clock, settings)
    series = _repeat(
        run,
        clock,
        settings.seconds_at_least,
        settings.iterations_at_least,
        seconds_at_most=settings.seconds_at_most,
        advance=advance,
    )
    return summed_up(series, batch, warmup)


def summed_up(series: Series, batch: int, warmup: Warmup) -> Measured:
    """The figures of calls of `batch` images each."""
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
        deviation_ms=deviation(durations) / 1e6,
        throughput_per_s=batch * len(durations) / (series.elapsed / 1e9),
        settled=warmup.settled,
    )
    return Measured(latency, percentile(durations, 99.9) / 1e6, tuple(durations))


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = MONOTONIC, warmup_rounds: int = 3
) -> dict[str, tuple[int, ...]]:
    """Durations in nanoseconds of several candidates, by name: each runs once per round, `warmup_rounds` not counted.

    For candidates whose threads rest once they have answered: `turns.in_turn` is for those that do not.
    """
    durations: dict[str, list[int]] = {name: [] for name in runs}
    for number in range(warmup_rounds + rounds):
        for name in order(tuple(runs), number):
            duration = _time(runs[name], clock)
            if number >= warmup_rounds:
                durations[name].append(duration)
    return {name: tuple(each) for name, each in durations.items()}


def order(names: Sequence[str], number: int) -> Sequence[str]:
    """Who comes when in a round: the order turns from round to round and every other round runs backwards, so that
    nobody is always first, nor always behind the same neighbour whose cache lines and heat it inherits.
    """
    turn = number // 2 % len(names)
    turned = (*names[turn:], *names[:turn])
    return turned if number % 2 == 0 else turned[::-1]


def warm_up(run: Callable[[], object], clock: Clock, settings: Settings) -> Warmup:
    """Calls until the last windows agree, or until the time for it is over."""
    medians: list[float] = []
    iterations = 0
    start = clock()
    while clock() - start < settings.warmup_at_most_s * 1e9:
        window = _repeat(run, clock, settings.window_s, iterations_at_least=1)
        iterations += len(window.durations)
        medians.append(statistics.median(window.durations))
        if settings.settled(medians):
            return Warmup(iterations, settled=True)
    return Warmup(iterations, settled=False)


def _repeat(
    run: Callable[[], object],
    clock: Clock,
    seconds_at_least: float,
    iterations_at_least: int,
    seconds_at_most: float = float("inf"),
    advance: Callable[[], None] = lambda: None,
) -> Series:
    durations: list[int] = []
    parts = 0
    start = clock()
    while True:
        durations.append(_time(run, clock))
        elapsed = clock() - start
        seconds = elapsed / 1e9
        waited = seconds / seconds_at_least if seconds_at_least > 0 else 1.0
        done = max(min(len(durations) / iterations_at_least, waited), seconds / seconds_at_most)
        for _ in range(parts, min(int(done * PARTS), PARTS)):
            parts += 1
            advance()
        if done >= 1:
            return Series(durations, elapsed)


def _time(run: Callable[[], object], clock: Clock) -> int:
    start = clock()
    run()
    return clock() - start
