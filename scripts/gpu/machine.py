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
"""Packages that this program may use besides those that every bundle records."""

SENSORS: Final = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active")
"""By nvidia-smi's names; MHz, MHz, °C, W and a bit mask."""


def record_machine(journal: Journal) -> None:
    """One row: GPU or why there is none, versions, processor."""
    facts: Row = {"libraries": _read_versions(), "python": platform.python_version(), "system": platform.platform()}
    why = []
    try:
        from deploykit.core.provenance import code_digest, list_libraries, processor_name

        facts["libraries"] = list_libraries() | facts["libraries"]
        facts |= {"code_sha256": code_digest(), "processor": processor_name()}
    except ImportError as error:
        why.append(f"deploykit cannot be imported: {last_line(error)}")
    gpu, absence = find_gpu()
    journal.add_row("machine", **facts, cores=os.cpu_count(), gpu=gpu, absence=absence, sensors=read_sensors(), why=why)


def find_gpu() -> tuple[Row | None, str | None]:
    """The first GPU that CUDA lists, or why there is none, as half a sentence. Never raises."""
    try:
        from deploykit.backends.gpu.driver import query_driver
    except ImportError as error:
        if Path("/proc/driver/nvidia/version").is_file():
            return {"name": f"unknown: {last_line(error)}"}, None
        return None, "no NVIDIA driver is loaded"
    gpu, absence = query_driver()
    return (None if gpu is None else gpu._asdict()), absence


def read_sensors() -> dict[str, Any] | None:
    """Current clocks, temperature and power, from nvidia-ml-py or else nvidia-smi; None where neither works."""
    try:
        return _read_nvml()
    except Exception:  # no package, no driver, or a sensor that this GPU lacks: nvidia-smi may know
        return _read_nvidia_smi()


def _read_nvml() -> dict[str, Any]:
    import pynvml  # the module of nvidia-ml-py

    pynvml.nvmlInit()
    try:
        name = _first_visible_gpu()
        is_index = name.isdigit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(int(name)) if is_index else pynvml.nvmlDeviceGetHandleByUUID(name)
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


def _read_nvidia_smi() -> dict[str, Any] | None:
    command = [
        "nvidia-smi",
        "-i",
        _first_visible_gpu(),
        f"--query-gpu={','.join(SENSORS)}",
        "--format=csv,noheader,nounits",
    ]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in output.splitlines()[0].split(",")]
    return {name: _parse_number(value) for name, value in zip(SENSORS, values, strict=True)} | {"source": "nvidia-smi"}


def _parse_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:  # a mask, or "[N/A]"
        return text


def _first_visible_gpu() -> str:
    """The first GPU of CUDA_VISIBLE_DEVICES, by index or UUID: NVML itself ignores that variable."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"


def _read_versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


COMMANDS: Final = {
    "gpu": "nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,pstate,compute_mode "
    "--format=csv,noheader",
    "libraries": r"ldconfig -p | grep -oE 'lib(cuda|nvidia-ml|curand|cublas|cudnn|nvinfer|ssl)\.so[.0-9]*' | sort -u",
    "CUDA toolkits": "ls -d /usr/local/cuda*; ls /usr/local/cuda/include/curand.h /usr/local/cuda/lib64/stubs",
    "tools": "g++ --version | head -1; cmake --version | head -1; xz --version | head -1; nproc",
}
"""What else decides which packages can be built and loaded here, by title."""


def record_environment(journal: Journal) -> None:
    """A note per command of COMMANDS, with what it printed in one line, and what it could not do."""
    for title, command in COMMANDS.items():
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=10, check=False)
        lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        journal.add_row("note", text=f"{title}: {'; '.join(lines) or 'nothing'}")
