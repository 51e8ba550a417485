"""The machine's state during a measurement: clocks, temperature, power, throttling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from deploykit.core.values import DeviceConditions
from deploykit.evaluate.latency import jetson, nvml
from deploykit.evaluate.latency.processor import read_processor

INTERVAL_S: Final = 0.4
"""Time between two readings: each takes some hundred microseconds of one core, which must not affect latencies."""


class ConditionsRecord:
    """The recorded conditions; empty until the block ends."""

    def __init__(self) -> None:
        self.conditions: tuple[DeviceConditions, ...] = ()


@contextmanager
def record_conditions(root: Path = Path("/"), interval_s: float = INTERVAL_S) -> Iterator[ConditionsRecord]:
    """Read the state of the processor and the GPUs in a separate thread, a few times per second and once at the end.

    Values that the machine does not provide are omitted without an error, as are devices without any value. `root` is
    the root of Linux's file system.
    """
    record, ended = ConditionsRecord(), threading.Event()
    readings: list[list[DeviceConditions]] = []
    with nvml.open_readers() as gpus:
        board = jetson.create_reader(root)
        readers: list[Callable[[], DeviceConditions]] = [
            partial(read_processor, root),
            *([board] if board else ()),
            *gpus,
        ]

        def read_repeatedly() -> None:
            while not ended.wait(interval_s):
                readings.append([read() for read in readers])
            readings.append([read() for read in readers])

        thread = threading.Thread(target=read_repeatedly, name="conditions", daemon=True)
        thread.start()
        try:
            yield record
        finally:
            ended.set()
            thread.join()
    record.conditions = tuple(filter(_has_readings, map(_merge_readings, zip(*readings, strict=True))))


def _merge_readings(readings: Sequence[DeviceConditions]) -> DeviceConditions:
    """Merge all readings of one device into ranges."""
    modes = dict.fromkeys(reading.power_mode for reading in readings if reading.power_mode is not None)
    return DeviceConditions(
        readings[0].device,
        readings[0].source,
        clock_mhz=_merge_ranges([reading.clock_mhz for reading in readings]),
        memory_clock_mhz=_merge_ranges([reading.memory_clock_mhz for reading in readings]),
        temperature_c=_merge_ranges([reading.temperature_c for reading in readings]),
        power_w=_merge_ranges([reading.power_w for reading in readings]),
        power_mode=", then ".join(modes) or None,
        throttled=tuple(dict.fromkeys(reason for reading in readings for reason in reading.throttled)),
    )


def _merge_ranges(pairs: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [pair for pair in pairs if pair is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _has_readings(conditions: DeviceConditions) -> bool:
    return conditions != DeviceConditions(conditions.device, conditions.source)
