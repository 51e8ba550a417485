"""The state of a Jetson's GPU, read from Linux's files: NVML does not provide it before JetPack 7.

Written from NVIDIA's developer guides for Jetson Linux 35 and 36 and tested on folders modelled after them. Its authors
never ran it on a Jetson: file names and units are not verified.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.values import DeviceConditions
from deploykit.evaluate.latency.sysfs import read_number, read_text, value_range, zone_temperatures

GPU: Final = re.compile(r"gpu|ga10b|gv11b|gp10b")
"""Names of the GPU's clock: `17000000.ga10b`, `17000000.gpu` (Orin), gv11b (Xavier), gp10b (TX2), `gpu-gpc-0`."""

RAILS: Final = ("VDD_IN", "VDD_GPU_SOC", "GPU")
"""Power of the whole module where the board measures it (Orin NX and Nano), else of the GPU (AGX Orin, AGX Xavier)."""

MEMORY_CLOCK: Final = "sys/kernel/debug/bpmp/debug/clk/emc/rate"
"""Readable by root only."""

TIMEOUT_S: Final = 2.0


def read_board_name(root: Path = Path("/")) -> str | None:
    """Read the board's name; None where it is not one of NVIDIA's."""
    name = read_text(root / "proc/device-tree/model")
    return name if name is not None and "NVIDIA" in name else None


def read_power_mode(root: Path = Path("/")) -> str | None:
    """Read the power mode set by nvpmodel, such as `MAXN` or `15W`; None where it is unknown.

    From its files, without starting the program: `status` contains `pmode:0002`, the table `ID=2 NAME=15W`.
    """
    status = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return _query_nvpmodel() if root == Path("/") else None
    table = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", read_text(root / "etc/nvpmodel.conf") or "")
    names: dict[int, str] = {int(number): name for number, name in table}
    return names.get(int(status[1]), f"mode {int(status[1])}")


def _query_nvpmodel() -> str | None:
    """Run `nvpmodel -q`, which prints `NV Power Mode: 15W` and the mode's number."""
    if (program := shutil.which("nvpmodel")) is None:
        return None
    try:
        result = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"NV Power Mode:\s*(\S+)", result.stdout)
    return match[1] if match else None


class Rail(NamedTuple):
    """A power rail that the board's INA3221 measures."""

    name: str
    millivolts: Path
    milliamperes: Path

    @property
    def microwatts(self) -> float | None:
        """The current power."""
        volts, amperes = read_number(self.millivolts), read_number(self.milliamperes)
        return volts * amperes if volts is not None and amperes is not None else None


def create_reader(root: Path = Path("/")) -> Callable[[], DeviceConditions] | None:
    """Create a function that reads the state of this Jetson's GPU; None on other machines.

    The power mode is read once. Over-current events, which make the board throttle, count from now on.
    """
    if (board := read_board_name(root)) is None:
        return None
    mode, before, rail = read_power_mode(root), _count_events(root), _find_rail(root)
    devices = sorted((root / "sys/class/devfreq").glob("*"))
    clocks = [device / "cur_freq" for device in devices if GPU.search(device.name)]

    def read_gpu() -> DeviceConditions:
        return DeviceConditions(
            board,
            "sysfs" if rail is None else f"sysfs, power of {rail.name}",
            clock_mhz=value_range(map(read_number, clocks[:1]), 1e6),  # Thor has two; the second is for video
            memory_clock_mhz=value_range(iter([read_number(root / MEMORY_CLOCK)]), 1e6),
            temperature_c=value_range(zone_temperatures(root, "gpu"), 1e3),
            power_w=value_range(iter([rail.microwatts]), 1e6) if rail is not None else None,
            power_mode=mode,
            throttled=tuple(event for event, count in _count_events(root).items() if count > before.get(event, 0)),
        )

    return read_gpu


def _find_rail(root: Path) -> Rail | None:
    rails: dict[str, Rail] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(folder / "name") == "ina3221":
            for label in folder.glob("in*_label"):
                channel = label.name.removeprefix("in").removesuffix("_label")
                name = read_text(label) or ""
                rails[name] = Rail(name, folder / f"in{channel}_input", folder / f"curr{channel}_input")
    return next((rails[name] for name in RAILS if name in rails), None)


def _count_events(root: Path) -> dict[str, float]:
    """The number of over-current events since boot, by name: `over-current oc1`."""
    counters = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    return {f"over-current {path.name.partition('_')[0]}": read_number(path) or 0.0 for path in counters}
