"""An engine and FP32 in alternating blocks, with a simulated clock."""

from itertools import count, cycle, pairwise, repeat

import pytest

from deploykit.evaluate.latency.fp32_beside import GPU_BLOCKS, Blocks, time_beside_fp32
from deploykit.evaluate.latency.measure import Settings

MS = 1_000_000
SPIN_MS = 70
"""Threads of ONNX Runtime that spin this long after a call slow the other side down."""


class Machine:
    """A clock that advances only while a side runs, or during pauses; `calls` says which side ran, and when."""

    def __init__(self):
        self.now = 0
        self.calls = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)

    def side(self, name, durations_ms):
        durations = iter(durations_ms)

        def run():
            started = self.now
            self.now += round(next(durations) * MS)
            self.calls.append((name, started, self.now))

        return run

    def time(self, engine_ms, fp32_ms, **options):
        engine, fp32 = self.side("engine", engine_ms), self.side("fp32", fp32_ms)
        return time_beside_fp32(engine, fp32, 1, self, self.sleep, **options)


@pytest.fixture
def machine():
    return Machine()


def test_the_speedup_is_the_time_of_fp32_over_the_time_of_the_engine(machine):
    pair = machine.time(repeat(5), repeat(10))
    assert (pair.engine.latency.p50_ms, pair.fp32.latency.p50_ms) == (5, 10)
    assert (pair.speedup.low, pair.speedup.estimate, pair.speedup.high) == (2, 2, 2)


def test_the_interval_covers_the_rounds(machine):
    pair = machine.time(repeat(5), cycle([*repeat(8, 30), *repeat(12, 30)]))
    assert (pair.speedup.low, pair.speedup.high) == (1.6, 2.4)


def test_on_a_gpu_each_block_begins_with_200_ms_of_uncounted_calls(machine):
    machine.time(repeat(2), repeat(2), blocks=GPU_BLOCKS)
    pauses = [number for number, (before, after) in enumerate(pairwise(machine.calls)) if after[1] > before[2]]
    blocks = [machine.calls[first + 1 : last + 1] for first, last in pairwise(pauses)]
    assert {block[-1][2] - block[0][1] for block in blocks} == {280 * MS}


def test_quick_calls_of_both_sides_take_three_to_four_seconds(machine):
    machine.time(repeat(5), repeat(9))
    assert 3 <= machine.now / 1e9 <= 4


def test_the_threads_of_one_side_have_stopped_spinning_when_the_other_runs(machine):
    machine.time(repeat(5), repeat(9))
    block = machine.calls[-200:]  # after the warm-up, in which one side runs after the other
    switches = [(before, after) for before, after in pairwise(block) if before[0] != after[0]]
    assert len(switches) > 6
    assert all(after[1] - before[2] > SPIN_MS * MS for before, after in switches)


def test_slow_calls_run_in_no_more_rounds_than_an_interval_needs(machine):
    pair = machine.time(repeat(2000), repeat(5000))
    assert pair.rounds == 6
    assert pair.fp32.latency.iterations == 6  # without uncounted calls, which would double the time


def test_warm_up_that_does_not_settle_takes_no_longer_than_that_of_one_engine_alone(machine):
    pair = machine.time(count(1, 0.01), count(1, 0.01), settings=Settings(agreement=0))
    assert not pair.engine.latency.settled
    assert machine.now / 1e9 < Settings().warmup_at_most_s + 4


def test_too_few_rounds_for_an_interval_are_refused():
    with pytest.raises(ValueError, match="at least 6 rounds, not 5"):
        Blocks(rounds=5)
