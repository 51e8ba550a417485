"""Candidates that take turns in blocks, each on a machine that the one before it has left.

Call by call in turn would be nearer in time, but libraries keep their threads spinning behind a call, in the hope of
the next one: those of ONNX Runtime 1.31 for 55 to 70 ms of a processor of 2 GHz, and whoever computes meanwhile has the
fewer cores. So were seen, of one small network on two cores: alone 8.2 ms in ONNX Runtime and 5.0 ms in OpenVINO; call
by call in turn 8.6 ms and 13.3 ms, the opposite order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from deploykit.evaluate.latency.clock import MONOTONIC, Clock
from deploykit.evaluate.latency.load import Sleep
from deploykit.evaluate.latency.measure import order

PAUSE_S: Final = 0.2
"""Before each block: twice what was seen, and some more for busy cores."""

UNCOUNTED: Final = 2
"""Calls of each block that wake threads and fill caches again."""

BLOCK_S: Final = 0.2
"""Of counted calls, of which there is at least one."""


def in_turn(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Clock = MONOTONIC,
    sleep: Sleep = time.sleep,
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Durations in nanoseconds of several candidates, by name: a block of calls per round."""
    blocks: dict[str, list[tuple[int, ...]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in order(tuple(runs), number):
            sleep(PAUSE_S)
            blocks[name].append(_block(runs[name], clock))
    return {name: tuple(each) for name, each in blocks.items()}


def _block(run: Callable[[], object], clock: Clock) -> tuple[int, ...]:
    for _ in range(UNCOUNTED):
        run()
    durations: list[int] = []
    spent = 0
    while not durations or spent < BLOCK_S * 1e9:
        start = clock()
        run()
        durations.append(clock() - start)
        spent += max(durations[-1], 1)  # whatever a clock says, a block ends
    return tuple(durations)
