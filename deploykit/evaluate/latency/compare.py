"""Compare the latencies of two candidates that run alternately."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from deploykit.core.values import Interval, Measurement
from deploykit.evaluate.latency.alternate import PAUSE_S, WARMUP_CALLS, alternate_blocks
from deploykit.evaluate.latency.clock import Clock
from deploykit.evaluate.latency.load import Sleep
from deploykit.evaluate.latency.measure import Series, Settings, summarize_calls, warm_up
from deploykit.evaluate.latency.statistics import MIN_PAIRS, median_ratio, percentile

DEFAULT_ROUNDS: Final = 10
"""Minimum number of rounds by default, if they fit the maximum time."""

Blocks = Sequence[Sequence[int]]
"""Durations of one candidate, by round."""


class LatencyComparison(NamedTuple):
    """Figures of both candidates, and the median ratio second / first by round."""

    first: Measurement
    second: Measurement
    ratio: Interval
    rounds: int


def compare_latency(
    first: Callable[[], object],
    second: Callable[[], object],
    batch: int,
    rounds: int | None,
    clock: Clock,
    settings: Settings,
    sleep: Sleep = time.sleep,
    *,
    warmup_s: float = 0,
) -> LatencyComparison:
    """Warm up each candidate, then alternate them for `rounds` rounds, or for the time in `settings` for both together.
    Each candidate's throughput counts its own time only. `warmup_s` is for candidates on a GPU, see `alternate`.
    """
    runs = {"first": first, "second": second}
    warmups = {name: warm_up(run, clock, settings) for name, run in runs.items()}
    count = rounds or _count_rounds(alternate_blocks(runs, 1, clock, sleep, warmup_s=warmup_s), settings, warmup_s)
    durations = alternate_blocks(runs, count, clock, sleep, warmup_s=warmup_s)
    figures = {name: summarize_calls(_join_blocks(blocks), batch, warmups[name]) for name, blocks in durations.items()}
    medians = {name: [percentile(block, 50) for block in blocks] for name, blocks in durations.items()}
    return LatencyComparison(
        figures["first"], figures["second"], median_ratio(medians["second"], medians["first"]), count
    )


def _join_blocks(blocks: Blocks) -> Series:
    durations = [duration for block in blocks for duration in block]
    return Series(durations, sum(durations))


def _count_rounds(trial: Mapping[str, Blocks], settings: Settings, warmup_s: float) -> int:
    """The number of rounds that fill the time, estimated from a trial round; at least as many as an interval needs."""
    blocks = [block for rounds in trial.values() for block in rounds]
    calls_s = [sum(block) / 1e9 for block in blocks]
    round_s = sum(
        PAUSE_S + max(warmup_s, WARMUP_CALLS * spent / len(block)) + spent
        for block, spent in zip(blocks, calls_s, strict=True)
    )
    target = max(DEFAULT_ROUNDS, math.ceil(settings.seconds_at_least / round_s))
    return max(min(target, math.floor(settings.seconds_at_most / round_s)), MIN_PAIRS)
