"""The state of NVIDIA GPUs, read through NVML, the library behind nvidia-smi.

Tested with a double only, without a GPU; a test checks the names used here against the installed nvidia-ml-py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from deploykit.core.values import DeviceConditions

THROTTLE_REASONS: Final = {
    "ApplicationsClocksSetting": "application clocks are set",
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
    "DisplayClockSetting": "display clocks are set",
}
"""NVML's throttle reasons and how they are reported. An idle GPU is not throttled."""


@contextmanager
def open_readers() -> Iterator[tuple[Callable[[], DeviceConditions], ...]]:
    """Yield a function per GPU that reads its state, valid within the block; none without a driver or nvidia-ml-py.

    Includes all GPUs of the driver regardless of CUDA_VISIBLE_DEVICES, whose numbering differs from NVML's.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, NVMLError_LibraryNotFound and similar: no GPU to report
        yield ()
        return
    try:
        yield tuple(_create_readers(pynvml))
    finally:
        _or_none(pynvml.nvmlShutdown)


def _create_readers(nvml: Any) -> Iterator[Callable[[], DeviceConditions]]:
    count = _or_none(nvml.nvmlDeviceGetCount) or 0
    for index in range(count):
        handle = _or_none(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            number = f" {index}" if count > 1 else ""
            yield _create_reader(
                nvml, handle, f"{_decode_name(_or_none(nvml.nvmlDeviceGetName, handle)) or 'GPU'}{number}"
            )


def _create_reader(nvml: Any, handle: Any, name: str) -> Callable[[], DeviceConditions]:
    reasons = (
        "nvmlDeviceGetCurrentClocksEventReasons"
        if hasattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons")
        else "nvmlDeviceGetCurrentClocksThrottleReasons"  # its name before 12.2
    )

    def read_gpu() -> DeviceConditions:
        return DeviceConditions(
            name,
            "NVML",
            clock_mhz=_as_range(_or_none(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM), 1),
            memory_clock_mhz=_as_range(_or_none(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM), 1),
            temperature_c=_as_range(_or_none(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU), 1),
            power_w=_as_range(_or_none(nvml.nvmlDeviceGetPowerUsage, handle), 1e3),  # mW
            throttled=tuple(_throttle_reasons(nvml, _or_none(getattr(nvml, reasons), handle) or 0)),
        )

    return read_gpu


def _or_none(function: Callable[..., Any], *arguments: object) -> Any:
    """The result, or None where the call fails: many GPUs lack a sensor, and a container may lack permission."""
    try:
        return function(*arguments)
    except Exception:
        return None


def _as_range(value: float | None, unit: float) -> tuple[float, float] | None:
    return None if value is None else (value / unit, value / unit)


def _decode_name(name: str | bytes | None) -> str | None:
    """Versions before 11.515 return bytes."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _throttle_reasons(nvml: Any, bits: int) -> Iterator[str]:
    for name, text in THROTTLE_REASONS.items():
        if bits & (getattr(nvml, f"nvmlClocksThrottleReason{name}", None) or 0):
            yield text
