"""Time an engine and FP32 of the same graph in alternating blocks, in about the time that one alone would take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from deploykit.core.values import Interval, Measurement, Value
from deploykit.evaluate.latency.alternate import GPU_WARMUP_S, WARMUP_CALLS, alternate_blocks
from deploykit.evaluate.latency.clock import MONOTONIC, Clock
from deploykit.evaluate.latency.load import Sleep
from deploykit.evaluate.latency.measure import Series, Settings, Warmup, summarize_calls, warm_up
from deploykit.evaluate.latency.statistics import MIN_PAIRS, median_ratio, percentile


class Blocks(Value, frozen=True):
    """Number and duration of the alternating blocks: with quick calls, 3 s for both sides together."""

    rounds: int = 8
    """Blocks of each side; an even number, since every second round is reversed."""
    pause_s: float = 0.1
    """Pause before each block: ONNX Runtime's threads spin for 55 to 70 ms after a call, see `alternate`."""
    block_s: float = 0.08
    """Time of counted calls per block."""
    warmup_s: float = 0
    """Uncounted time at the start of each block, for candidates on a GPU, see `alternate`."""

    def __post_init__(self) -> None:
        if self.rounds < MIN_PAIRS:
            raise ValueError(f"an interval needs at least {MIN_PAIRS} rounds, not {self.rounds}")


SLOW_CALL_S: Final = 0.2
"""A call at least this long needs no warm-up call at the start of a block: waking the threads is a small share of it,
and all blocks together would take as long again."""


GPU_BLOCKS: Final = Blocks(warmup_s=GPU_WARMUP_S)
"""Where the engines run on a GPU: 6 s for both sides together."""


class TimedPair(NamedTuple):
    """Figures of both sides, and the median ratio FP32 / engine by round."""

    engine: Measurement
    fp32: Measurement
    speedup: Interval
    rounds: int


def time_beside_fp32(
    engine: Callable[[], object],
    fp32: Callable[[], object],
    batch: int,
    clock: Clock = MONOTONIC,
    sleep: Sleep = time.sleep,
    *,
    settings: Settings = Settings(),  # noqa: B008 - a frozen value
    blocks: Blocks = Blocks(),  # noqa: B008 - a frozen value
) -> TimedPair:
    """Warm up each side, in at most half of the time that `settings` allow, then alternate them. Each side's throughput
    counts its own time only.

    Where the rounds would take longer than `settings.seconds_at_most`, there are only as many as an interval needs.
    """
    runs = {"engine": engine, "fp32": fp32}
    warmup = msgspec.structs.replace(settings, warmup_at_most_s=settings.warmup_at_most_s / 2)
    warmups: dict[str, Warmup] = {}
    call_s: dict[str, float] = {}
    for name, run in runs.items():
        start = clock()
        warmups[name] = warm_up(run, clock, warmup)
        call_s[name] = (clock() - start) / 1e9 / max(warmups[name].iterations, 1)
    slow = max(call_s.values()) >= SLOW_CALL_S
    warmup_calls = 0 if slow else WARMUP_CALLS
    round_s = sum(
        blocks.pause_s + max(warmup_calls * call, blocks.warmup_s) + max(blocks.block_s, call)
        for call in call_s.values()
    )
    rounds = blocks.rounds if blocks.rounds * round_s <= settings.seconds_at_most else MIN_PAIRS
    durations = alternate_blocks(
        runs,
        rounds,
        clock,
        sleep,
        pause_s=blocks.pause_s,
        warmup_calls=warmup_calls,
        warmup_s=blocks.warmup_s,
        block_s=blocks.block_s,
    )
    figures = {}
    for name, series in durations.items():
        calls = [duration for block in series for duration in block]
        figures[name] = summarize_calls(Series(calls, sum(calls)), batch, warmups[name])
    medians = {name: [percentile(block, 50) for block in series] for name, series in durations.items()}
    speedup = median_ratio(medians["fp32"], medians["engine"])
    return TimedPair(figures["engine"], figures["fp32"], speedup, rounds)
