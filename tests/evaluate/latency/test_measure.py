"""Measurement with a simulated clock: every duration, and so every figure, is known."""

from collections.abc import Callable, Iterator
from itertools import chain, count, cycle, islice, repeat
from typing import Any

import numpy as np
import pytest

from deploykit.core.values import Latency
from deploykit.evaluate.latency.clock import MONOTONIC
from deploykit.evaluate.latency.measure import PROGRESS_STEPS, Settings, measure_calls

MS = 1_000_000


class FakeClock:
    """A clock that advances only while the measured call runs."""

    def __init__(self) -> None:
        self.now = 5 * MS

    def __call__(self) -> int:
        return self.now

    def call(self, durations_ms: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.now += round(next(durations_ms) * MS)

        return run


def figures(*arguments: Any, **named: Any) -> Latency:
    return measure_calls(*arguments, **named).latency


def test_a_steady_call_settles_after_three_windows() -> None:
    clock = FakeClock()
    latency = figures(clock.call(repeat(10)), batch=4, clock=clock)
    assert latency.settled
    assert latency.warmup_iterations == 30  # 3 windows of 100 ms
    assert latency.iterations == 200  # 2 s
    assert {latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms, latency.mean_ms} == {10.0}
    assert latency.deviation_ms == 0.0
    assert latency.throughput_per_s == pytest.approx(400)


@pytest.mark.parametrize("call_ms", [10, 700, 4000])
def test_progress_is_advanced_once_per_step(call_ms: float) -> None:
    clock, heard = FakeClock(), []
    measure_calls(clock.call(repeat(call_ms)), 1, clock, advance=lambda: heard.append(clock.now))
    assert len(heard) == PROGRESS_STEPS
    assert heard == sorted(heard)


def test_figures_of_a_known_distribution() -> None:
    clock = FakeClock()
    hundred = [float(ms) for ms in range(1, 101)]
    settings = Settings(window_s=5.05, warmup_at_most_s=60, seconds_at_least=5.05, seconds_at_most=60)
    latency = figures(clock.call(cycle(hundred)), 1, clock, settings)
    assert latency.iterations == 100
    assert (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms) == (50, 90, 95, 99)
    assert latency.mean_ms == pytest.approx(50.5)
    assert latency.deviation_ms == pytest.approx(np.std(hundred))
    assert latency.throughput_per_s == pytest.approx(100 / 5.05)


def test_every_duration_is_recorded_in_call_order() -> None:
    clock = FakeClock()
    result = measure_calls(clock.call(chain(repeat(10, 30), cycle([1, 2, 3, 4]))), 1, clock)
    assert result.durations_ns == tuple(islice(cycle([MS, 2 * MS, 3 * MS, 4 * MS]), result.latency.iterations))
    assert (result.threads, result.rate_per_s, result.gpu) == (1, None, ())


def test_one_of_a_thousand_calls_is_slower_than_their_p99_9() -> None:
    clock = FakeClock()
    settings = Settings(window_s=0, agreement=1e9, iterations_at_least=1000, seconds_at_least=0.001)
    warmed = repeat(1, settings.agreeing_windows)
    result = measure_calls(clock.call(chain(warmed, repeat(1, 998), [50, 90])), 1, clock, settings)
    assert (result.latency.p99_ms, result.p999_ms) == (1, 50)


def test_a_drift_that_ends_settles_and_is_not_measured() -> None:
    clock = FakeClock()
    cooling = (10 + 40 * 0.97**call for call in range(300))
    latency = figures(clock.call(chain(cooling, repeat(10))), 1, clock)
    assert latency.settled
    assert latency.warmup_iterations > 30
    assert latency.p99_ms < 10 * 1.1


def test_a_drift_that_does_not_end_does_not_settle() -> None:
    clock = FakeClock()
    heating = (10 * 1.5 ** (clock.now / 1e9) for _ in count())  # half as much again every second
    latency = figures(clock.call(heating), 1, clock)
    assert not latency.settled


def test_windows_that_jump_do_not_settle() -> None:
    clock = FakeClock()
    # 10 calls of 10 ms make a window, 5 of 20 ms the next: neighbours never agree.
    latency = figures(clock.call(cycle([10.0] * 10 + [20.0] * 5)), 1, clock)
    assert not latency.settled
    assert latency.warmup_iterations >= 20_000 / 20


def test_noise_within_windows_settles_by_their_medians() -> None:
    clock = FakeClock()
    chance = np.random.default_rng(0)
    spiky = (10.0 + (90.0 if chance.random() < 0.1 else chance.normal(0, 0.1)) for _ in count())
    latency = figures(clock.call(spiky), 1, clock, Settings(window_s=0.5))
    assert latency.settled
    assert latency.p50_ms == pytest.approx(10, abs=0.2)
    assert latency.p99_ms == pytest.approx(100)


def test_warm_up_that_never_settles_ends_at_its_cap() -> None:
    clock = FakeClock()
    settings = Settings(agreement=0.0, warmup_at_most_s=1.0)
    calls = count()
    latency = figures(clock.call(10 + next(calls) for _ in count()), 1, clock, settings)
    assert not latency.settled
    assert latency.warmup_iterations < 100


def test_the_minimum_of_iterations_runs_regardless_of_duration() -> None:
    clock = FakeClock()
    latency = figures(clock.call(repeat(200)), 1, clock)
    assert latency.iterations == 50  # 10 s, although 2 s were requested


def test_a_very_slow_call_ends_at_the_cap() -> None:
    clock = FakeClock()
    latency = figures(clock.call(repeat(7_000)), 1, clock)
    assert latency.settled
    assert latency.iterations == 5  # 35 s: the first end after 30 s


def test_time_spent_outside_the_call_counts_for_throughput_only() -> None:
    clock = FakeClock()

    def busy_clock() -> int:
        clock.now += MS  # each reading of this clock takes 1 ms
        return clock.now

    latency = figures(clock.call(repeat(9)), 1, busy_clock)
    assert latency.p50_ms == 10
    assert latency.throughput_per_s < 1000 / 10


@pytest.mark.parametrize(
    "broken",
    [
        {"agreeing_windows": 1},
        {"iterations_at_least": 0},
        {"window_s": -1.0},
        {"seconds_at_least": 0.0},
        {"seconds_at_least": 2.0, "seconds_at_most": 1.0},
    ],
)
def test_settings_without_any_measured_call_are_refused(broken: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Settings(**broken)  # type: ignore[arg-type]


def test_the_clock_is_monotonic() -> None:
    moments = list(islice(iter(MONOTONIC, None), 1000))
    assert moments == sorted(moments)


def test_a_real_call_is_measured_in_real_time() -> None:
    settings = Settings(window_s=0.001, warmup_at_most_s=0.05, iterations_at_least=5, seconds_at_least=0.01)
    latency = figures(lambda: sum(range(1000)), 1, settings=settings)
    assert 0 < latency.p50_ms <= latency.p99_ms
    assert latency.throughput_per_s <= 1000 / latency.mean_ms * 1.001
