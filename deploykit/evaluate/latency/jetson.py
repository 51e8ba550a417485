"""The state of a Jetson's GPU, which NVML does not tell before JetPack 7: from Linux's own files.

Written by NVIDIA's developer guides for Jetson Linux 35 and 36 and tested on folders made after them. It was never
tried on a Jetson by those who wrote it: neither the names of files nor their units are proved.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.values import Conditions
from deploykit.evaluate.latency.sysfs import number, span, word, zones

GPU: Final = re.compile(r"gpu|ga10b|gv11b|gp10b")
"""In the name of the GPU's clock: `17000000.ga10b`, `17000000.gpu` (Orin), gv11b (Xavier), gp10b (TX2), `gpu-gpc-0`."""

RAILS: Final = ("VDD_IN", "VDD_GPU_SOC", "GPU")
"""The whole module where its board measures that (Orin NX and Nano); else the GPU's part (AGX Orin, AGX Xavier)."""

MEMORY_CLOCK: Final = "sys/kernel/debug/bpmp/debug/clk/emc/rate"
"""Only root may read it."""

PATIENCE_S: Final = 2.0


def model(root: Path = Path("/")) -> str | None:
    """The board's own name, where it is one of NVIDIA's."""
    name = word(root / "proc/device-tree/model")
    return name if name is not None and "NVIDIA" in name else None


def power_mode(root: Path = Path("/")) -> str | None:
    """The mode that nvpmodel has set, such as `MAXN` or `15W`; None where nothing tells.

    By its files, as asking the program takes a process; `status` holds `pmode:0002`, the table `ID=2 NAME=15W`.
    """
    status = re.search(r"pmode:(\d+)", word(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return _asked() if root == Path("/") else None
    table = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", word(root / "etc/nvpmodel.conf") or "")
    names: dict[int, str] = {int(number): name for number, name in table}
    return names.get(int(status[1]), f"mode {int(status[1])}")


def _asked() -> str | None:
    """It answers `NV Power Mode: 15W`, and the number below."""
    if (program := shutil.which("nvpmodel")) is None:
        return None
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
    return found[1] if found else None


class Rail(NamedTuple):
    """A supply that the board's INA3221 measures."""

    name: str
    millivolts: Path
    milliamperes: Path

    @property
    def microwatts(self) -> float | None:
        """Now."""
        volts, amperes = number(self.millivolts), number(self.milliamperes)
        return volts * amperes if volts is not None and amperes is not None else None


def reader(root: Path = Path("/")) -> Callable[[], Conditions] | None:
    """What reads the state of this Jetson's GPU now; None on another machine.

    The power mode is asked once. Over-current events, for which the board holds clocks back, count from now on.
    """
    if (board := model(root)) is None:
        return None
    mode, before, rail = power_mode(root), _events(root), _rail(root)
    clocks = [each / "cur_freq" for each in sorted((root / "sys/class/devfreq").glob("*")) if GPU.search(each.name)]

    def read() -> Conditions:
        return Conditions(
            board,
            "sysfs" if rail is None else f"sysfs, power of {rail.name}",
            clock_mhz=span(map(number, clocks[:1]), 1e6),  # of Thor's two, the one behind is for video
            memory_clock_mhz=span(iter([number(root / MEMORY_CLOCK)]), 1e6),
            temperature_c=span(zones(root, "gpu"), 1e3),
            power_w=span(iter([rail.microwatts]), 1e6) if rail is not None else None,
            power_mode=mode,
            throttled=tuple(event for event, count in _events(root).items() if count > before.get(event, 0)),
        )

    return read


def _rail(root: Path) -> Rail | None:
    found: dict[str, Rail] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if word(folder / "name") == "ina3221":
            for label in folder.glob("in*_label"):
                channel = label.name.removeprefix("in").removesuffix("_label")
                name = word(label) or ""
                found[name] = Rail(name, folder / f"in{channel}_input", folder / f"curr{channel}_input")
    return next((found[name] for name in RAILS if name in found), None)


def _events(root: Path) -> dict[str, float]:
    """How often each over-current event occurred since the start, by its name: `over-current oc1`."""
    counters = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    return {f"over-current {path.name.partition('_')[0]}": number(path) or 0.0 for path in counters}
