"""Measurement under load in virtual time, compared with an independent simulation of the callers."""

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, repeat

import numpy as np
import pytest
from scipy import stats
from virtual_time import VirtualTime

from deploykit.core.errors import InputError, UsageError
from deploykit.evaluate.latency.load import Load, LoadResult, draw_arrivals, measure_under_load
from deploykit.evaluate.latency.measure import Settings, measure_calls

MS = 1_000_000
QUICK = Settings(window_s=0, agreement=1e9)
ONE_IN_A_MILLION = 1e-6


def load_of(
    durations_ms: Iterator[float], load: Load, settings: Settings = QUICK, calls: list[tuple[int, int]] | None = None
) -> LoadResult:
    """The figures of calls with the given durations. `calls` receives the start and duration of each."""
    time, lock = VirtualTime(load.threads), threading.Lock()

    def run() -> None:
        with lock:
            duration = next(durations_ms)
        if calls is not None:
            calls.append((time(), round(duration * MS)))
        time.sleep(duration / 1e3)

    return measure_under_load(run, 1, load, time, time.sleep, settings)


def queued_latencies(due: Sequence[int], durations: Sequence[int], servers: int) -> list[int]:
    """Latencies of calls served in order by the given number of servers: Lindley's equation."""
    free = [0] * servers
    latencies = []
    for at, duration in zip(due, durations, strict=True):
        ended = max(at, heapq.heappop(free)) + duration
        heapq.heappush(free, ended)
        latencies.append(ended - at)
    return latencies


# ── A closed loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_single_caller_measures_the_same_as_the_plain_loop() -> None:
    durations = [float(ms) for ms in np.random.default_rng(0).lognormal(2, 0.3, 5000)]
    settings = Settings(window_s=1)
    result = load_of(iter(durations), Load(), settings).measured
    time, plain = VirtualTime(), iter(durations)
    assert result == measure_calls(lambda: time.sleep(next(plain) / 1e3), 1, time, settings)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_independent_callers_multiply_the_throughput(threads: int) -> None:
    result = load_of(repeat(10), Load(threads)).measured
    assert result.threads == threads
    assert set(result.durations_ns) == {10 * MS}
    assert result.latency.throughput_per_s == pytest.approx(100 * threads, rel=0.05)


def test_calls_in_progress_at_either_end_do_not_bias_the_throughput() -> None:
    chance = np.random.default_rng(1)
    settings = Settings(window_s=0.1, agreement=1e9, seconds_at_least=60, seconds_at_most=60)
    result = load_of((float(chance.exponential(10)) for _ in count()), Load(4), settings).measured
    # 400 a second in the mean; renewals of exponential gaps vary by the root of their number
    assert result.latency.throughput_per_s * 60 == pytest.approx(24_000, abs=5 * 24_000**0.5)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("percent", [50, 90, 95, 99, 99.9])
def test_percentiles_of_a_known_distribution_are_within_the_sampling_error(threads: int, percent: float) -> None:
    truth = stats.lognorm(0.4, scale=10)
    chance = np.random.default_rng(2)
    settings = Settings(window_s=0, agreement=1e9, iterations_at_least=4000, seconds_at_most=1e3)
    result = load_of((float(truth.rvs(random_state=chance)) for _ in count()), Load(threads), settings).measured
    latency = result.latency
    named = {50: latency.p50_ms, 90: latency.p90_ms, 95: latency.p95_ms, 99: latency.p99_ms, 99.9: result.p999_ms}
    # The number of N draws below the true percentile is binomial: the measured percentile is between
    # the true percentiles of the ranks that this number has in all but one of a million runs.
    number = latency.iterations
    low, high = stats.binom(number, percent / 100).interval(1 - ONE_IN_A_MILLION)
    assert truth.ppf((low - 1) / number) <= named[percent] <= truth.ppf(min((high + 1) / number, 1))


def test_every_caller_finishes_its_slow_first_call_before_measurement() -> None:
    first_of_thread = threading.local()
    time = VirtualTime(4)

    def run() -> None:
        slow = not hasattr(first_of_thread, "made")
        first_of_thread.made = True
        time.sleep(0.5 if slow else 0.01)

    result = measure_under_load(run, 1, Load(4), time, time.sleep).measured
    assert result.latency.settled
    assert set(result.durations_ns) == {10 * MS}


def test_a_load_that_never_settles_is_measured_after_the_warm_up_limit_with_a_caveat() -> None:
    slower = (10 * 1.01**call for call in count())
    settings = Settings(warmup_at_most_s=2, seconds_at_least=0.1, iterations_at_least=5)
    latency = load_of(slower, Load(2), settings).measured.latency
    assert not latency.settled
    assert latency.iterations >= 5


def test_the_time_limit_ends_a_measurement_before_the_minimum_of_calls() -> None:
    result = load_of(repeat(7_000), Load(2), Settings())
    assert result.measured.latency.iterations == pytest.approx(10, abs=1)  # 5 each in 35 s, which end together


# ── An open loop ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("threads", "rate"), [(1, 20), (1, 95), (3, 250), (2, 400)])
def test_each_latency_is_that_of_a_queue_with_so_many_servers(threads: int, rate: float) -> None:
    """Offered load: almost no queue, a long one, or one that grows without bound."""
    chance = np.random.default_rng(3)
    load = Load(threads, rate)
    calls: list[tuple[int, int]] = []
    settings = Settings(window_s=0, agreement=1e9, seconds_at_least=5, seconds_at_most=1e3)
    result = load_of((float(chance.gamma(4, 2.5)) for _ in count()), load, settings, calls).measured
    due = draw_arrivals(load, settings)
    served = [duration for _, duration in calls[-len(due) :]]
    assert list(result.durations_ns) == pytest.approx(queued_latencies(due, served, threads), abs=2)
    assert (result.threads, result.rate_per_s) == (threads, rate)


def test_the_moments_are_those_of_a_poisson_process() -> None:
    due = draw_arrivals(Load(1, 250), Settings(seconds_at_least=40, seconds_at_most=60))
    gaps = np.diff([0, *due]) / 1e9
    assert 40 <= due[-1] / 1e9 < 41
    assert stats.kstest(gaps, stats.expon(scale=1 / 250).cdf).pvalue > 0.001
    neighbours = np.corrcoef(gaps[:-1], gaps[1:])[0, 1]
    assert abs(neighbours) < 4 / len(gaps) ** 0.5


def test_arrival_times_are_reproducible_by_seed() -> None:
    assert draw_arrivals(Load(1, 50, 7), QUICK) == draw_arrivals(Load(1, 50, 7), QUICK)
    assert draw_arrivals(Load(1, 50, 7), QUICK) != draw_arrivals(Load(1, 50, 8), QUICK)


def test_arrivals_continue_until_both_minimum_calls_and_minimum_time_are_reached() -> None:
    assert len(draw_arrivals(Load(1, 5), Settings(seconds_at_least=1, seconds_at_most=100))) == 50
    many = draw_arrivals(Load(1, 1000), Settings(seconds_at_least=1, seconds_at_most=100))
    assert many[-2] < 1e9 <= many[-1]
    assert draw_arrivals(Load(1, 1), Settings(seconds_at_most=10))[-1] <= 10e9


def test_a_rate_without_any_arrival_is_refused() -> None:
    with pytest.raises(UsageError, match=r"At 0.001 requests/s no call arrives within 30 s. Choose a higher --rate"):
        measure_under_load(lambda: None, 1, Load(1, 0.001))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stall_shows_in_the_p99_of_an_open_loop_and_not_of_a_closed_loop(threads: int) -> None:
    """Once, in the middle of five seconds, a stall of 300 ms; otherwise a call takes 1 ms."""
    settings = Settings(window_s=0, agreement=1e9, seconds_at_least=5)

    def figures(rate: float | None) -> tuple[float, float, float]:
        time = VirtualTime(threads)
        begun = time()

        def run() -> None:
            into = time() - begun - 2_500 * MS
            stalled = 300 * MS - into if 0 <= into < 300 * MS else 0
            time.sleep((MS + stalled) / 1e9)

        latency = measure_under_load(run, 1, Load(threads, rate), time, time.sleep, settings).measured.latency
        return latency.p50_ms, latency.p99_ms, latency.iterations

    closed_p50, closed_p99, _ = figures(None)
    assert closed_p50 == closed_p99 == 1
    open_p50, open_p99, calls = figures(200)
    assert open_p50 == pytest.approx(1, abs=0.2)
    # 300 ms of 5 s are 6 % of the calls, and wait evenly long: 1 % of all wait longer than 5/6 of the stall
    assert open_p99 == pytest.approx(250, abs=300 / (0.06 * calls) ** 0.5)


def test_an_overload_is_reported_as_a_growing_backlog() -> None:
    result = load_of(repeat(10), Load(1, 150))
    due = draw_arrivals(Load(1, 150), QUICK)
    (statement,) = result.caveats
    assert statement.startswith(f"{len(due) / due[-1] * 1e9:.1f} requests/s arrived and 99.")
    assert "were served: the backlog grew" in statement
    assert result.measured.latency.throughput_per_s == pytest.approx(100, rel=0.01)
    assert result.measured.latency.p99_ms > 500


@pytest.mark.parametrize(("threads", "rate"), [(1, 80), (2, 160)])
def test_a_temporary_queue_is_not_a_backlog(threads: int, rate: float) -> None:
    result = load_of(repeat(10), Load(threads, rate))
    assert result.caveats == ()
    assert result.measured.latency.p99_ms > 15


def test_unserved_requests_are_a_caveat() -> None:
    settings = Settings(window_s=0, agreement=1e9, seconds_at_least=4, seconds_at_most=5)
    result = load_of(repeat(100), Load(1, 50), settings)
    due, completed = len(draw_arrivals(Load(1, 50), settings)), result.measured.latency.iterations
    assert completed == 50  # of 100 ms each in 5 s
    assert f"{due - completed} requests were still waiting when the time was over" in result.caveats[1]


def test_the_last_warm_up_calls_delay_no_measured_call() -> None:
    """Two callers: the first settles at once while the other is still in a long call."""
    durations = chain([1, 1, 1, 1, 1, 40], repeat(1))
    result = load_of(durations, Load(2, 5), Settings(window_s=0.002, agreement=1e9, agreeing_windows=2))
    assert result.measured.latency.p99_ms == pytest.approx(1)


# ── Threads ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_callers_call_at_the_same_time() -> None:
    lock, together = threading.Lock(), threading.Event()
    inside = 0

    def run() -> None:
        nonlocal inside
        with lock:
            inside += 1
            if inside == 3:
                together.set()
        assert together.wait(60), "each waited for the one before it"
        with lock:
            inside -= 1

    found = measure_under_load(run, 1, Load(3), settings=Settings(window_s=0, agreement=1e9, seconds_at_least=0.001))
    assert found.measured.latency.iterations >= 50


@pytest.mark.parametrize("rate", [None, 50.0])
@pytest.mark.parametrize("number", [1, 30])
def test_an_exception_in_a_call_stops_all_callers_and_propagates(rate: float | None, number: int) -> None:
    calls = count(1)

    def run() -> None:
        if next(calls) == number:
            raise InputError("The engine broke.", "Mend it.")
        threading.Event().wait(0.001)

    before = threading.active_count()
    with pytest.raises(InputError, match="The engine broke"):
        measure_under_load(run, 1, Load(2, rate), settings=Settings(window_s=0, agreement=1e9))
    assert threading.active_count() == before


@pytest.mark.parametrize("make", [lambda: Load(0), lambda: Load(1, 0.0), lambda: Load(1, float("inf"))])
def test_invalid_loads_are_rejected(make: Callable[[], Load]) -> None:
    with pytest.raises(ValueError, match=r"threads must be at least 1|rate_per_s must be finite"):
        make()
