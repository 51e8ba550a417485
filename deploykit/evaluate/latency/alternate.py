"""Time several candidates in alternating blocks of calls, with a pause before each block.

Alternating single calls would be closer in time, but libraries keep their threads spinning after a call, waiting for
the next one: those of ONNX Runtime 1.31 for 55 to 70 ms on a 2 GHz processor, and a candidate that runs meanwhile has
fewer cores. Measured for one small network on two cores: alone 8.2 ms in ONNX Runtime and 5.0 ms in OpenVINO;
alternating single calls 8.6 ms and 13.3 ms, the opposite order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from deploykit.evaluate.latency.clock import MONOTONIC, Clock
from deploykit.evaluate.latency.load import Sleep

PAUSE_S: Final = 0.2
"""Pause before each block: twice the observed spinning, plus a margin for busy cores."""

WARMUP_CALLS: Final = 2
"""Uncounted calls at the start of each block, which wake threads and fill caches."""

GPU_WARMUP_S: Final = 0.2
"""Uncounted time at the start of each block where a candidate runs on a GPU: its clocks fall while it is idle, and rise
again only after such a time under load. Two of its calls may take a few microseconds.
"""

BLOCK_S: Final = 0.2
"""Time of counted calls per block; at least one call."""


def alternate_blocks(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Clock = MONOTONIC,
    sleep: Sleep = time.sleep,
    *,
    pause_s: float = PAUSE_S,
    warmup_calls: int = WARMUP_CALLS,
    warmup_s: float = 0,
    block_s: float = BLOCK_S,
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Durations in nanoseconds by candidate: one block of calls per round.

    Each block begins with at least `warmup_calls` uncounted calls, for at least `warmup_s`. With all options 0,
    candidates alternate call by call: only for candidates whose threads do not spin.
    """
    blocks: dict[str, list[tuple[int, ...]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in order_in_round(tuple(runs), number):
            sleep(pause_s)
            blocks[name].append(_time_block(runs[name], clock, warmup_calls, warmup_s, block_s))
    return {name: tuple(durations) for name, durations in blocks.items()}


def _time_block(
    run: Callable[[], object], clock: Clock, warmup_calls: int, warmup_s: float, block_s: float
) -> tuple[int, ...]:
    calls, warmup_start = 0, clock()
    while calls < warmup_calls or clock() - warmup_start < warmup_s * 1e9:
        run()
        calls += 1
    durations: list[int] = []
    spent = 0
    while not durations or spent < block_s * 1e9:
        start = clock()
        run()
        durations.append(clock() - start)
        spent += max(durations[-1], 1)  # a block ends even if the clock stands still
    return tuple(durations)


def order_in_round(names: Sequence[str], number: int) -> Sequence[str]:
    """The order of candidates in a round. It rotates every two rounds and every second round is reversed, so that no
    candidate is always first or always after the same one, whose cache lines and heat it inherits.
    """
    shift = number // 2 % len(names)
    rotated = (*names[shift:], *names[:shift])
    return rotated if number % 2 == 0 else rotated[::-1]
