"""Two candidates in turn: how long the second takes beside the first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from deploykit.core.values import Interval, Measured
from deploykit.evaluate.latency.clock import Clock
from deploykit.evaluate.latency.load import Sleep
from deploykit.evaluate.latency.measure import Series, Settings, summed_up, warm_up
from deploykit.evaluate.latency.statistics import FEWEST_PAIRS, percentile, ratio
from deploykit.evaluate.latency.turns import PAUSE_S, UNCOUNTED, in_turn

ROUNDS: Final = 10
"""At least, where nobody says how many, and the time at most holds them."""

Blocks = Sequence[Sequence[int]]
"""Durations of one side, round by round."""


class Compared(NamedTuple):
    """Either side's figures, and the second's median over the first's in the same round."""

    first: Measured
    second: Measured
    ratio: Interval
    rounds: int


def compare(
    first: Callable[[], object],
    second: Callable[[], object],
    batch: int,
    rounds: int | None,
    clock: Clock,
    settings: Settings,
    sleep: Sleep = time.sleep,
) -> Compared:
    """Each warms up by itself, then they take turns: `rounds` times, or as long as `settings` says for both together.
    A side's throughput is that of its own time.
    """
    sides = {"first": first, "second": second}
    warmups = {name: warm_up(run, clock, settings) for name, run in sides.items()}
    count = rounds or _rounds(in_turn(sides, 1, clock, sleep), settings)
    spent = in_turn(sides, count, clock, sleep)
    figures = {name: summed_up(_series(blocks), batch, warmups[name]) for name, blocks in spent.items()}
    medians = {name: [percentile(block, 50) for block in blocks] for name, blocks in spent.items()}
    return Compared(figures["first"], figures["second"], ratio(medians["second"], medians["first"]), count)


def _series(blocks: Blocks) -> Series:
    durations = [duration for block in blocks for duration in block]
    return Series(durations, sum(durations))


def _rounds(trial: Mapping[str, Blocks], settings: Settings) -> int:
    """As many as fill the time, and never fewer than an interval needs; a round takes what the one of `trial` took."""
    blocks = [block for each in trial.values() for block in each]
    round_s = sum(PAUSE_S + sum(block) / 1e9 * (1 + UNCOUNTED / len(block)) for block in blocks)
    wanted = max(ROUNDS, math.ceil(settings.seconds_at_least / round_s))
    return max(min(wanted, math.floor(settings.seconds_at_most / round_s)), FEWEST_PAIRS)
