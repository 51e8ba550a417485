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
    """The figures of calls that take so long. `calls` is told when each began and how long it took."""
    time, lock = VirtualTime(load.threads), threading.Lock()

    def run() -> None:
        with lock:
            duration = next(durations_ms)
        if calls is not None:
            calls.append((time(), round(duration * MS)))
        time.sleep(duration / 1e3)

    return measure_under_load(run, 1, load, time, time.sleep, settings)


def queued(due: Sequence[int], durations: Sequence[int], servers: int) -> list[int]:
    """How long calls take that are served in order by so many servers: Lindley's equation."""
    free = [0] * servers
    latencies = []
    for at, duration in zip(due, durations, strict=True):
        ended = max(at, heapq.heappop(free)) + duration
        heapq.heappush(free, ended)
        latencies.append(ended - at)
    return latencies


# ── A closed loop ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_caller_alone_gives_what_the_plain_loop_gives() -> None:
    durations = [float(ms) for ms in np.random.default_rng(0).lognormal(2, 0.3, 5000)]
    settings = Settings(window_s=1)
    found = load_of(iter(durations), Load(), settings).measured
    time, plain = VirtualTime(), iter(durations)
    assert found == measure_calls(lambda: time.sleep(next(plain) / 1e3), 1, time, settings)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_independent_callers_multiply_the_throughput(threads: int) -> None:
    found = load_of(repeat(10), Load(threads)).measured
    assert found.threads == threads
    assert set(found.durations_ns) == {10 * MS}
    assert found.latency.throughput_per_s == pytest.approx(100 * threads, rel=0.05)


def test_calls_in_progress_at_either_end_do_not_bias_the_throughput() -> None:
    chance = np.random.default_rng(1)
    settings = Settings(window_s=0.1, agreement=1e9, seconds_at_least=60, seconds_at_most=60)
    found = load_of((float(chance.exponential(10)) for _ in count()), Load(4), settings).measured
    # 400 a second in the mean; renewals of exponential gaps vary by the root of their number
    assert found.latency.throughput_per_s * 60 == pytest.approx(24_000, abs=5 * 24_000**0.5)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("percent", [50, 90, 95, 99, 99.9])
def test_percentiles_of_a_known_distribution_are_measured_within_the_error_of_sampling(
    threads: int, percent: float
) -> None:
    truth = stats.lognorm(0.4, scale=10)
    chance = np.random.default_rng(2)
    settings = Settings(window_s=0, agreement=1e9, iterations_at_least=4000, seconds_at_most=1e3)
    found = load_of((float(truth.rvs(random_state=chance)) for _ in count()), Load(threads), settings).measured
    latency = found.latency
    named = {50: latency.p50_ms, 90: latency.p90_ms, 95: latency.p95_ms, 99: latency.p99_ms, 99.9: found.p999_ms}
    # So many of N draws lie below the true percentile, by the binomial distribution: the measured one lies between
    # the true percentiles of the ranks that this number takes in all but one of a million runs.
    number = latency.iterations
    low, high = stats.binom(number, percent / 100).interval(1 - ONE_IN_A_MILLION)
    assert truth.ppf((low - 1) / number) <= named[percent] <= truth.ppf(min((high + 1) / number, 1))


def test_every_caller_has_made_its_first_slow_call_before_it_counts() -> None:
    first_of_thread = threading.local()
    time = VirtualTime(4)

    def run() -> None:
        slow = not hasattr(first_of_thread, "made")
        first_of_thread.made = True
        time.sleep(0.5 if slow else 0.01)

    found = measure_under_load(run, 1, Load(4), time, time.sleep).measured
    assert found.latency.settled
    assert set(found.durations_ns) == {10 * MS}


def test_a_load_that_never_settles_is_measured_after_its_time_to_warm_up_and_says_so() -> None:
    slower = (10 * 1.01**call for call in count())
    settings = Settings(warmup_at_most_s=2, seconds_at_least=0.1, iterations_at_least=5)
    latency = load_of(slower, Load(2), settings).measured.latency
    assert not latency.settled
    assert latency.iterations >= 5


def test_the_time_at_most_ends_it_before_there_are_enough_calls() -> None:
    found = load_of(repeat(7_000), Load(2), Settings())
    assert found.measured.latency.iterations == pytest.approx(10, abs=1)  # 5 each in 35 s, which end together


# ── An open loop ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("threads", "rate"), [(1, 20), (1, 95), (3, 250), (2, 400)])
def test_each_latency_is_that_of_a_queue_with_so_many_servers(threads: int, rate: float) -> None:
    """Whether there is hardly a queue, a long one, or one that grows without end."""
    chance = np.random.default_rng(3)
    load = Load(threads, rate)
    calls: list[tuple[int, int]] = []
    settings = Settings(window_s=0, agreement=1e9, seconds_at_least=5, seconds_at_most=1e3)
    found = load_of((float(chance.gamma(4, 2.5)) for _ in count()), load, settings, calls).measured
    due = draw_arrivals(load, settings)
    served = [duration for _, duration in calls[-len(due) :]]
    assert list(found.durations_ns) == pytest.approx(queued(due, served, threads), abs=2)
    assert (found.threads, found.rate_per_s) == (threads, rate)


def test_the_moments_are_those_of_a_poisson_process() -> None:
    due = draw_arrivals(Load(1, 250), Settings(seconds_at_least=40, seconds_at_most=60))
    gaps = np.diff([0, *due]) / 1e9
    assert 40 <= due[-1] / 1e9 < 41
    assert stats.kstest(gaps, stats.expon(scale=1 / 250).cdf).pvalue > 0.001
    neighbours = np.corrcoef(gaps[:-1], gaps[1:])[0, 1]
    assert abs(neighbours) < 4 / len(gaps) ** 0.5


def test_a_seed_gives_its_moments_again_and_another_gives_others() -> None:
    assert draw_arrivals(Load(1, 50, 7), QUICK) == draw_arrivals(Load(1, 50, 7), QUICK)
    assert draw_arrivals(Load(1, 50, 7), QUICK) != draw_arrivals(Load(1, 50, 8), QUICK)


def test_calls_are_due_until_there_are_enough_and_the_time_is_over() -> None:
    assert len(draw_arrivals(Load(1, 5), Settings(seconds_at_least=1, seconds_at_most=100))) == 50
    many = draw_arrivals(Load(1, 1000), Settings(seconds_at_least=1, seconds_at_most=100))
    assert many[-2] < 1e9 <= many[-1]
    assert draw_arrivals(Load(1, 1), Settings(seconds_at_most=10))[-1] <= 10e9


def test_a_rate_at_which_nothing_is_due_is_refused() -> None:
    with pytest.raises(UsageError, match=r"At 0.001 requests/s no call arrives within 30 s. Choose a higher --rate"):
        measure_under_load(lambda: None, 1, Load(1, 0.001))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stall_is_in_the_p99_of_an_open_loop_and_hidden_by_a_closed_one(threads: int) -> None:
    """Once, in the middle of five seconds, nothing is answered for 300 ms; else a call takes 1 ms."""
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
    found = load_of(repeat(10), Load(1, 150))
    due = draw_arrivals(Load(1, 150), QUICK)
    (statement,) = found.caveats
    assert statement.startswith(f"{len(due) / due[-1] * 1e9:.1f} requests/s arrived and 99.")
    assert "were served: the backlog grew" in statement
    assert found.measured.latency.throughput_per_s == pytest.approx(100, rel=0.01)
    assert found.measured.latency.p99_ms > 500


@pytest.mark.parametrize(("threads", "rate"), [(1, 80), (2, 160)])
def test_a_temporary_queue_is_not_a_backlog(threads: int, rate: float) -> None:
    found = load_of(repeat(10), Load(threads, rate))
    assert found.caveats == ()
    assert found.measured.latency.p99_ms > 15


def test_requests_left_waiting_are_a_caveat() -> None:
    settings = Settings(window_s=0, agreement=1e9, seconds_at_least=4, seconds_at_most=5)
    found = load_of(repeat(100), Load(1, 50), settings)
    due, made = len(draw_arrivals(Load(1, 50), settings)), found.measured.latency.iterations
    assert made == 50  # of 100 ms each in 5 s
    assert f"{due - made} requests were still waiting when the time was over" in found.caveats[1]


def test_the_last_calls_to_warm_up_delay_none_that_counts() -> None:
    """Two callers, the first of which settles at once while the other is still in a long call."""
    durations = chain([1, 1, 1, 1, 1, 40], repeat(1))
    found = load_of(durations, Load(2, 5), Settings(window_s=0.002, agreement=1e9, agreeing_windows=2))
    assert found.measured.latency.p99_ms == pytest.approx(1)


# ── Threads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
def test_what_a_call_raises_ends_all_callers_and_is_raised(rate: float | None, number: int) -> None:
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
