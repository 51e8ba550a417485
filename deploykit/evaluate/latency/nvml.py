"""The state of NVIDIA's GPUs, by NVML: what nvidia-smi shows, asked of the driver directly.

Tried with a stand-in only, as no GPU was at hand; a test compares the names that are used with those of the installed
nvidia-ml-py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from deploykit.core.values import Conditions

REASONS: Final = {
    "ApplicationsClocksSetting": "application clocks are set",
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
    "DisplayClockSetting": "display clocks are set",
}
"""Why clocks are held back, in NVML's words and in ours. A GPU that idles is not held back."""


@contextmanager
def readers() -> Iterator[tuple[Callable[[], Conditions], ...]]:
    """What reads the state of each GPU now, while the block lasts; none without a driver or without nvidia-ml-py.

    All GPUs that the driver has, whatever CUDA_VISIBLE_DEVICES says: the numbers of the two do not agree.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, or NVMLError_LibraryNotFound and its like: there is nothing to tell
        yield ()
        return
    try:
        yield tuple(_found(pynvml))
    finally:
        _perhaps(pynvml.nvmlShutdown)


def _found(nvml: Any) -> Iterator[Callable[[], Conditions]]:
    count = _perhaps(nvml.nvmlDeviceGetCount) or 0
    for index in range(count):
        handle = _perhaps(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            number = f" {index}" if count > 1 else ""
            yield _reader(nvml, handle, f"{_text(_perhaps(nvml.nvmlDeviceGetName, handle)) or 'GPU'}{number}")


def _reader(nvml: Any, handle: Any, name: str) -> Callable[[], Conditions]:
    reasons = (
        "nvmlDeviceGetCurrentClocksEventReasons"
        if hasattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons")
        else "nvmlDeviceGetCurrentClocksThrottleReasons"  # its name before 12.2
    )

    def read() -> Conditions:
        return Conditions(
            name,
            "NVML",
            clock_mhz=_pair(_perhaps(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM), 1),
            memory_clock_mhz=_pair(_perhaps(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM), 1),
            temperature_c=_pair(_perhaps(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU), 1),
            power_w=_pair(_perhaps(nvml.nvmlDeviceGetPowerUsage, handle), 1e3),  # mW
            throttled=tuple(_words(nvml, _perhaps(getattr(nvml, reasons), handle) or 0)),
        )

    return read


def _perhaps(ask: Callable[..., Any], *arguments: object) -> Any:
    """The answer, or None where the GPU has none: many lack a sensor, and a container may not be allowed to ask."""
    try:
        return ask(*arguments)
    except Exception:
        return None


def _pair(value: float | None, unit: float) -> tuple[float, float] | None:
    return None if value is None else (value / unit, value / unit)


def _text(name: str | bytes | None) -> str | None:
    """Versions before 11.515 give bytes."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _words(nvml: Any, bits: int) -> Iterator[str]:
    for name, text in REASONS.items():
        if bits & (getattr(nvml, f"nvmlClocksThrottleReason{name}", None) or 0):
            yield text
