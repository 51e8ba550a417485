"""The state of the processor: clock, governor, temperature, from Linux's own files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploykit.core.values import Conditions
from deploykit.evaluate.latency.sysfs import number, span, word, zones

SENSORS: Final = ("coretemp", "k10temp", "zenpower")
"""Drivers in hwmon that read the temperature inside a processor, Intel's and AMD's."""


def processor(root: Path = Path("/")) -> Conditions:
    """The processors that this process may run on, as they are now: its figures hang on their clocks.

    Where there is no cpufreq, as on most virtual machines, /proc/cpuinfo tells a clock; on ARM it tells none.
    """
    folders = [root / f"sys/devices/system/cpu/cpu{index}/cpufreq" for index in sorted(_ours())]
    governors = sorted({name for each in folders if (name := word(each / "scaling_governor")) is not None})
    clock = span((number(each / "scaling_cur_freq") for each in folders), 1e3)  # kHz
    return Conditions(
        "CPU",
        "sysfs" if clock is not None else "/proc/cpuinfo",
        clock_mhz=clock or span(_told(root), 1),
        temperature_c=span(zones(root, "cpu", "x86_pkg"), 1e3) or span(_inside(root), 1e3),
        power_mode=", ".join(governors) or None,
    )


def _ours() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _told(root: Path) -> Iterator[float | None]:
    """In MHz, of the processors that this process may run on."""
    ours = _ours()
    for block in (word(root / "proc/cpuinfo") or "").split("\n\n"):
        index = re.search(r"^processor\s*:\s*(\d+)$", block, re.MULTILINE)
        clock = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", block, re.MULTILINE)
        if index and clock and int(index[1]) in ours:
            yield float(clock[1])


def _inside(root: Path) -> Iterator[float | None]:
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if word(folder / "name") in SENSORS:
            yield from (number(path) for path in sorted(folder.glob("temp*_input")))
