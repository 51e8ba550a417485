"""The state of the machine while something is measured: figures of a throttled device are of that device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from deploykit.core.values import Conditions
from deploykit.evaluate.latency import jetson, nvml
from deploykit.evaluate.latency.processor import processor

INTERVAL_S: Final = 0.4
"""Between two looks: each takes some hundred microseconds of one core, and must not show in the figures."""


class Watched:
    """What was seen; empty until the block is left."""

    def __init__(self) -> None:
        self.conditions: tuple[Conditions, ...] = ()


@contextmanager
def watch(root: Path = Path("/"), interval_s: float = INTERVAL_S) -> Iterator[Watched]:
    """Look at the processor and the GPUs in a thread of its own, a few times per second and once at the end.

    What the machine does not tell is not there, and no error: no device that tells nothing is among the conditions.
    `root` is where Linux's files are looked for.
    """
    watched, ended = Watched(), threading.Event()
    looks: list[list[Conditions]] = []
    with nvml.readers() as gpus:
        board = jetson.reader(root)
        readers: list[Callable[[], Conditions]] = [partial(processor, root), *([board] if board else ()), *gpus]

        def look() -> None:
            while not ended.wait(interval_s):
                looks.append([read() for read in readers])
            looks.append([read() for read in readers])

        thread = threading.Thread(target=look, name="conditions", daemon=True)
        thread.start()
        try:
            yield watched
        finally:
            ended.set()
            thread.join()
    watched.conditions = tuple(filter(_telling, map(_joined, zip(*looks, strict=True))))


def _joined(looks: Sequence[Conditions]) -> Conditions:
    """One device over all looks."""
    modes = dict.fromkeys(look.power_mode for look in looks if look.power_mode is not None)
    return Conditions(
        looks[0].device,
        looks[0].source,
        clock_mhz=_span([look.clock_mhz for look in looks]),
        memory_clock_mhz=_span([look.memory_clock_mhz for look in looks]),
        temperature_c=_span([look.temperature_c for look in looks]),
        power_w=_span([look.power_w for look in looks]),
        power_mode=", then ".join(modes) or None,
        throttled=tuple(dict.fromkeys(reason for look in looks for reason in look.throttled)),
    )


def _span(pairs: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    there = [pair for pair in pairs if pair is not None]
    return (min(low for low, _ in there), max(high for _, high in there)) if there else None


def _telling(seen: Conditions) -> bool:
    return seen != Conditions(seen.device, seen.source)
