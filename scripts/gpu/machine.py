"""The machine: its GPU, its libraries, and what the GPU's sensors say."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

from gpu.journal import Journal, Row, last_line

LIBRARIES: Final = (
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "tensorrt-rtx-cu13", "pycuda", "cuda-bindings"),
    *("nvidia-ml-py", "triton", "msgspec", "click", "rich", "safetensors", "platformdirs", "filelock"),
)
"""What this program may use beside the libraries that every bundle names."""

SENSORS: Final = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active")
"""As nvidia-smi names them; MHz, MHz, °C, W and a bit mask."""


def facts(journal: Journal) -> None:
    """One row: GPU or why there is none, versions, processor."""
    known: Row = {"libraries": _versions(), "python": platform.python_version(), "system": platform.platform()}
    why = []
    try:
        from deploykit.core.provenance import code_digest, libraries, processor

        known |= {"libraries": libraries() | known["libraries"], "code_sha256": code_digest(), "processor": processor()}
    except ImportError as error:
        why.append(f"deploykit cannot be imported: {last_line(error)}")
    gpu, absence = gpu_or_absence()
    journal.row("machine", **known, cores=os.cpu_count(), gpu=gpu, absence=absence, sensors=sensors(), why=why)


def gpu_or_absence() -> tuple[Row | None, str | None]:
    """The GPU that CUDA gives first, or why there is none, as half a sentence. Never raises."""
    try:
        from deploykit.backends.tensorrt.driver import driver
    except ImportError as error:
        if Path("/proc/driver/nvidia/version").is_file():
            return {"name": f"not asked: {last_line(error)}"}, None
        return None, "no NVIDIA driver is loaded"
    gpu, absence = driver()
    return (None if gpu is None else gpu._asdict()), absence


def sensors() -> dict[str, Any] | None:
    """Clocks, temperature and power now, by nvidia-ml-py, else by nvidia-smi; None where neither answers."""
    try:
        return _by_nvml()
    except Exception:  # no package, no driver, or a sensor that this GPU lacks: the other way may know
        return _by_smi()


def _by_nvml() -> dict[str, Any]:
    import pynvml  # the module of nvidia-ml-py

    pynvml.nvmlInit()
    try:
        which = _visible()
        by_number = which.isdigit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(int(which)) if by_number else pynvml.nvmlDeviceGetHandleByUUID(which)
        return {
            "clocks.sm": pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            "clocks.mem": pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            "temperature.gpu": pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
            "power.draw": pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "clocks_event_reasons.active": hex(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)),
            "source": "nvidia-ml-py",
        }
    finally:
        pynvml.nvmlShutdown()


def _by_smi() -> dict[str, Any] | None:
    words = ["nvidia-smi", "-i", _visible(), f"--query-gpu={','.join(SENSORS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in answer.splitlines()[0].split(",")]
    return {name: _number(value) for name, value in zip(SENSORS, values, strict=True)} | {"source": "nvidia-smi"}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:  # a mask, or "[N/A]"
        return text


def _visible() -> str:
    """The first GPU that CUDA gives this process, as NVML knows it, which does not heed CUDA_VISIBLE_DEVICES."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
