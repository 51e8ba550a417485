"""The state of the processor from Linux's files: clock, governor, temperature."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploykit.core.values import DeviceConditions
from deploykit.evaluate.latency.sysfs import read_number, read_text, value_range, zone_temperatures

SENSORS: Final = ("coretemp", "k10temp", "zenpower")
"""hwmon drivers for the internal temperature of Intel's and AMD's processors."""


def read_processor(root: Path = Path("/")) -> DeviceConditions:
    """Read the current state of the CPUs that this process may run on: their clocks determine its latency.

    Without cpufreq, as on most virtual machines, the clock comes from /proc/cpuinfo, which has none on ARM.
    """
    folders = [root / f"sys/devices/system/cpu/cpu{index}/cpufreq" for index in sorted(_allowed_cpus())]
    governors = sorted({name for folder in folders if (name := read_text(folder / "scaling_governor")) is not None})
    clock = value_range((read_number(folder / "scaling_cur_freq") for folder in folders), 1e3)  # kHz
    return DeviceConditions(
        "CPU",
        "sysfs" if clock is not None else "/proc/cpuinfo",
        clock_mhz=clock or value_range(_cpuinfo_clocks(root), 1),
        temperature_c=value_range(zone_temperatures(root, "cpu", "x86_pkg"), 1e3)
        or value_range(_hwmon_temperatures(root), 1e3),
        power_mode=", ".join(governors) or None,
    )


def _allowed_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpuinfo_clocks(root: Path) -> Iterator[float | None]:
    """Clocks in MHz of the CPUs that this process may run on."""
    allowed = _allowed_cpus()
    for block in (read_text(root / "proc/cpuinfo") or "").split("\n\n"):
        index = re.search(r"^processor\s*:\s*(\d+)$", block, re.MULTILINE)
        clock = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", block, re.MULTILINE)
        if index and clock and int(index[1]) in allowed:
            yield float(clock[1])


def _hwmon_temperatures(root: Path) -> Iterator[float | None]:
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(folder / "name") in SENSORS:
            yield from (read_number(path) for path in sorted(folder.glob("temp*_input")))
