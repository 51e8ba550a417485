"""The GPU and its driver, queried before any TensorRT library is imported.

A TensorRT runtime may die of SIGSEGV when it deserializes without a driver (observed in 11.4's lean runtime). The
driver's own library is queried through ctypes, which needs no package, creates no CUDA context and uses no GPU memory.
"""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import Final, NamedTuple

LIBRARY: Final = "libcuda.so.1"
"""The soname: the loader finds it where drivers install it, such as a Jetson's /usr/lib/aarch64-linux-gnu/tegra."""

KERNEL_MODULE: Final = Path("/proc/driver/nvidia/version")


class Gpu(NamedTuple):
    """The GPU that engines run on: the first visible one (CUDA_VISIBLE_DEVICES)."""

    name: str
    compute_capability: int
    """90 for 9.0."""
    driver: str
    """`580.65.06`; where the kernel module does not report it, the newest supported CUDA version: `CUDA 13.0`."""
    memory_bytes: int


class Driver(NamedTuple):
    """A GPU, or the reason why there is none, as a clause."""

    gpu: Gpu | None
    missing_reason: str | None


@functools.cache
def query_driver() -> Driver:
    """Query this machine's driver once per process. Never raises.

    As after any first CUDA call, a process forked afterwards cannot use CUDA; a spawned one can.
    """
    try:
        return Driver(_first_gpu(ctypes.CDLL(LIBRARY)), None)
    except OSError as error:
        return Driver(None, _explain_load_error(str(error)))
    except AttributeError as error:  # ctypes: "…/libcuda.so.1: undefined symbol: cuDeviceTotalMem_v2"
        return Driver(None, f"{LIBRARY} is not an NVIDIA driver that CUDA 11 or later can use ({error})")
    except CudaError as refusal:
        return Driver(
            None, ERROR_REASONS.get(refusal.code, "the NVIDIA driver failed") + f" (CUDA error {refusal.code})"
        )


class CudaError(Exception):
    """A CUDA call that returned an error."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


ERROR_REASONS: Final = {
    34: f"no NVIDIA driver is installed: {LIBRARY} is the CUDA toolkit's stub of one",
    35: f"the NVIDIA driver is missing or too old: {LIBRARY} does not support this CUDA version",
    46: "the GPU is busy or unavailable",
    100: "the NVIDIA driver finds no GPU",
    101: "the NVIDIA driver finds no GPU",
    802: "the GPU's fabric is not ready: the service nvidia-fabricmanager is not running",
    803: f"{LIBRARY} and the kernel module have different driver versions: after an update, reboot",
    804: "the driver's forward-compatibility package does not support this GPU",
    999: "the NVIDIA driver failed: its kernel module is not loaded, or this container has no access to its devices",
}
"""Explanations of the CUresult codes that cuInit and similar calls return."""

COMPUTE_CAPABILITY_MAJOR: Final = 75  # CUdevice_attribute
COMPUTE_CAPABILITY_MINOR: Final = 76


def _first_gpu(cuda: ctypes.CDLL) -> Gpu:
    _check_result(cuda.cuInit(0))
    count, device = ctypes.c_int(), ctypes.c_int()
    _check_result(cuda.cuDeviceGetCount(ctypes.byref(count)))
    if count.value == 0:
        raise CudaError(100)
    _check_result(cuda.cuDeviceGet(ctypes.byref(device), 0))
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _check_result(cuda.cuDeviceGetName(name, len(name), device))
    _check_result(cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    major = _device_attribute(cuda, COMPUTE_CAPABILITY_MAJOR, device)
    minor = _device_attribute(cuda, COMPUTE_CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major + minor, _driver_version(cuda), memory.value)


def _device_attribute(cuda: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _check_result(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    return value.value


def _driver_version(cuda: ctypes.CDLL) -> str:
    """The kernel module's version, as in nvidia-smi and NVIDIA's release notes; otherwise the CUDA version."""
    if (kernel_module := _kernel_module_version()) is not None:
        return kernel_module
    version = ctypes.c_int()
    _check_result(cuda.cuDriverGetVersion(ctypes.byref(version)))
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _kernel_module_version() -> str | None:
    """`580.65.06` from "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …"."""
    try:
        text = KERNEL_MODULE.read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", text)
    return match[1] if match else None


def _check_result(code: int) -> None:
    if code != 0:
        raise CudaError(code)


def _explain_load_error(reason: str) -> str:
    """`libcuda.so.1: cannot open shared object file: No such file or directory` is the usual case."""
    if reason.startswith(f"{LIBRARY}: cannot open shared object file"):
        return f"no NVIDIA driver is installed ({LIBRARY} is not found)"
    return f"the NVIDIA driver's library cannot be loaded ({reason})"
