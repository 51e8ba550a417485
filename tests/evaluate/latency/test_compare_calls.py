"""Two candidates that alternate, with a simulated clock."""

from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat

import numpy as np
import pytest

from deploykit.evaluate.latency.alternate import GPU_WARMUP_S, alternate_blocks
from deploykit.evaluate.latency.compare import compare_latency
from deploykit.evaluate.latency.measure import Settings

MS = 1_000_000


class FakeClock:
    """A clock that advances only while a candidate runs, or during pauses."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)

    def call(self, durations_ms: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.now += round(next(durations_ms) * MS)

        return run

    def compare(self, first, second, rounds=None, batch=1, settings=Settings()):  # noqa: B008 - a frozen value
        return compare_latency(self.call(first), self.call(second), batch, rounds, self, settings, self.sleep)


# ── Turns ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_block_has_a_minimum_duration_and_at_least_one_call() -> None:
    clock = FakeClock()
    blocks = alternate_blocks({"a": clock.call(repeat(10)), "b": clock.call(repeat(700))}, 3, clock, clock.sleep)
    assert blocks == {"a": ((10 * MS,) * 20,) * 3, "b": ((700 * MS,),) * 3}


def test_candidates_can_alternate_call_by_call_in_every_order() -> None:
    clock = FakeClock()
    order: list[str] = []

    def candidate(name: str, ms: float) -> Callable[[], None]:
        run = clock.call(repeat(ms))

        def call() -> None:
            order.append(name)
            run()

        return call

    runs = {"a": candidate("a", 1), "b": candidate("b", 2), "c": candidate("c", 3)}
    durations = alternate_blocks(runs, 6, clock, clock.sleep, pause_s=0, warmup_calls=0, block_s=0)
    assert durations == {"a": ((MS,),) * 6, "b": ((2 * MS,),) * 6, "c": ((3 * MS,),) * 6}
    rounds = ["".join(order[start : start + 3]) for start in range(0, 18, 3)]
    assert rounds == ["abc", "cba", "bca", "acb", "cab", "bac"]  # each order once
    assert {places.count(name) for name in "abc" for places in map(list, zip(*rounds, strict=True))} == {2}


def test_threads_that_spin_after_a_call_do_not_slow_the_other_candidate() -> None:
    """Like ONNX Runtime: for 70 ms after a call of `a`, `b` takes twice as long."""
    clock = FakeClock()
    last = -1000 * MS

    def a() -> None:
        nonlocal last
        clock.now += 10 * MS
        last = clock.now

    def b() -> None:
        clock.now += 10 * MS if clock.now - last < 70 * MS else 5 * MS

    blocks = alternate_blocks({"a": a, "b": b}, 8, clock, clock.sleep)
    assert {duration for block in blocks["b"] for duration in block} == {5 * MS}


def test_the_first_calls_after_a_switch_are_not_counted() -> None:
    clock = FakeClock()
    rested = 0

    def sleep(seconds: float) -> None:
        nonlocal rested
        clock.sleep(seconds)
        rested = 2

    def run() -> None:
        nonlocal rested
        clock.now += 30 * MS if rested else 10 * MS
        rested = max(rested - 1, 0)

    (block,) = alternate_blocks({"a": run}, 1, clock, sleep)["a"]
    assert set(block) == {10 * MS}


def test_a_gpu_runs_for_200_ms_at_the_start_of_each_block_until_its_clocks_are_high() -> None:
    clock = FakeClock()
    awake_at = 0

    def sleep(seconds: float) -> None:
        nonlocal awake_at
        clock.sleep(seconds)
        awake_at = clock.now + 200 * MS

    def run() -> None:
        clock.now += MS // 2 if clock.now >= awake_at else MS

    blocks = alternate_blocks({"a": run}, 3, clock, sleep, warmup_s=GPU_WARMUP_S)["a"]
    assert {duration for block in blocks for duration in block} == {MS // 2}


def test_the_rounds_of_gpus_fill_the_time_with_their_longer_warm_up() -> None:
    clock = FakeClock()
    settings = Settings(seconds_at_least=30, seconds_at_most=60)
    first, second = (clock.call(repeat(10)) for _ in range(2))
    compared = compare_latency(first, second, 1, None, clock, settings, clock.sleep, warmup_s=GPU_WARMUP_S)
    assert compared.rounds == 25  # 30 s in rounds of twice 0.2 s each of pause, warm-up and counted calls


def test_the_candidates_alternate_in_running_first() -> None:
    clock = FakeClock()
    began: list[str] = []

    def candidate(name: str) -> Callable[[], None]:
        def run() -> None:
            if began[-1:] != [name]:
                began.append(name)
            clock.now += 500 * MS

        return run

    alternate_blocks({name: candidate(name) for name in "abc"}, 6, clock, clock.sleep)
    assert "".join(began) == "abcbabcacbcabac"  # abc cba bca acb cab bac, with equal neighbours merged


# ── The ratio ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_ratio_is_the_seconds_time_over_the_firsts() -> None:
    comparison = FakeClock().compare(repeat(10), repeat(11), rounds=8)
    assert (comparison.ratio.low, comparison.ratio.estimate, comparison.ratio.high) == pytest.approx((1.1, 1.1, 1.1))
    assert comparison.rounds == 8
    assert comparison.first.durations_ns == (10 * MS,) * 160
    assert comparison.second.durations_ns == (11 * MS,) * 152


def test_each_sides_throughput_uses_only_its_own_time() -> None:
    comparison = FakeClock().compare(repeat(10), repeat(40), rounds=6, batch=4)
    assert comparison.first.latency.throughput_per_s == pytest.approx(400)
    assert comparison.second.latency.throughput_per_s == pytest.approx(100)


def test_each_side_is_warmed_up_before_it_is_measured() -> None:
    cooling = chain((10 + 40 * 0.97**call for call in range(300)), repeat(10))
    comparison = FakeClock().compare(repeat(10), cooling, rounds=6)
    assert comparison.second.latency.settled
    assert comparison.second.latency.warmup_iterations > 30 == comparison.first.latency.warmup_iterations
    assert comparison.ratio.high < 1.1


@pytest.mark.parametrize(
    ("ms", "settings", "rounds"),
    [
        (10, Settings(), 10),  # of 0.84 s each: more than 2 s, but the minimum count
        (10, Settings(seconds_at_least=20), 24),
        (600, Settings(), 7),  # of 4 s each, as many as fit into 30 s
        (10_000, Settings(), 6),  # the minimum for an interval
    ],
)
def test_without_a_number_of_rounds_they_fill_the_time(ms: float, settings: Settings, rounds: int) -> None:
    assert FakeClock().compare(repeat(ms), repeat(ms), settings=settings).rounds == rounds


def test_a_slower_machine_does_not_change_the_ratio() -> None:
    clock = FakeClock()

    def drifting(ms: float, seed: int) -> Iterator[float]:
        chance = np.random.default_rng(seed)
        while True:
            yield ms * (1 + clock.now / 20e9) * chance.lognormal(0, 0.05)

    comparison = clock.compare(drifting(10, 1), drifting(12, 2), rounds=40)
    assert comparison.first.latency.variation > 0.1
    assert comparison.ratio.low < 1.2 < comparison.ratio.high
    assert comparison.ratio.high - comparison.ratio.low < 0.06


def test_identical_candidates_differ_by_no_more_than_the_interval() -> None:
    chance = np.random.default_rng(3)
    first, second = (cycle(10 * chance.lognormal(0, 0.1, 977)) for _ in range(2))
    comparison = FakeClock().compare(first, second, rounds=40)
    assert comparison.ratio.low < 1 < comparison.ratio.high
