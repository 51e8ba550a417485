"""Is there a GPU, and which: the driver answers, before any TensorRT library is touched.

A TensorRT runtime may die by SIGSEGV where it is asked to deserialize without a driver (seen in 11.4's lean runtime).
The driver's own library says whether it is there: asked through ctypes, it needs no package, creates no CUDA context
and takes no GPU memory.
"""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import Final, NamedTuple

LIBRARY: Final = "libcuda.so.1"
"""By its soname: the loader finds it where drivers put it, such as a Jetson's /usr/lib/aarch64-linux-gnu/tegra."""

KERNEL_MODULE: Final = Path("/proc/driver/nvidia/version")


class Gpu(NamedTuple):
    """The GPU that engines run on: the first that CUDA_VISIBLE_DEVICES leaves."""

    name: str
    compute_capability: int
    """90 for 9.0."""
    driver: str
    """`580.65.06`; `CUDA 13.0`, the newest CUDA that it serves, where the kernel module does not tell."""
    memory_bytes: int


class Driver(NamedTuple):
    """A GPU, or why there is none, as half a sentence."""

    gpu: Gpu | None
    absence: str | None


@functools.cache
def driver() -> Driver:
    """What this machine's driver says, asked once. Never raises.

    A process forked off afterwards cannot use CUDA, as after any first call of CUDA; a spawned one can.
    """
    try:
        return Driver(_first_gpu(ctypes.CDLL(LIBRARY)), None)
    except OSError as error:
        return Driver(None, _unloadable(str(error)))
    except AttributeError as error:  # ctypes: "…/libcuda.so.1: undefined symbol: cuDeviceTotalMem_v2"
        return Driver(None, f"{LIBRARY} is not an NVIDIA driver that CUDA 11 or later can use ({error})")
    except CudaRefusal as refusal:
        return Driver(None, REASONS.get(refusal.code, "the NVIDIA driver failed") + f" (CUDA error {refusal.code})")


class CudaRefusal(Exception):
    """A CUDA call that returned an error."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


REASONS: Final = {
    34: f"no NVIDIA driver is installed: {LIBRARY} is the CUDA toolkit's stub of one",
    35: f"no NVIDIA driver is installed, or one that is too old: {LIBRARY} does not serve this CUDA",
    46: "the GPU is busy or unavailable",
    100: "the NVIDIA driver finds no GPU",
    101: "the NVIDIA driver finds no GPU",
    802: "the GPU's fabric is not ready: the service nvidia-fabricmanager does not run",
    803: f"{LIBRARY} and the kernel module are of different driver versions: a reboot mends it after an update",
    804: "the driver's forward-compatibility package does not serve this GPU",
    999: "the NVIDIA driver failed: its kernel module is not loaded, or its devices are not given to this container",
}
"""What CUresult codes of cuInit and its neighbours mean to who must mend them."""

COMPUTE_CAPABILITY_MAJOR: Final = 75  # CUdevice_attribute
COMPUTE_CAPABILITY_MINOR: Final = 76


def _first_gpu(cuda: ctypes.CDLL) -> Gpu:
    _must(cuda.cuInit(0))
    count, device = ctypes.c_int(), ctypes.c_int()
    _must(cuda.cuDeviceGetCount(ctypes.byref(count)))
    if count.value == 0:
        raise CudaRefusal(100)
    _must(cuda.cuDeviceGet(ctypes.byref(device), 0))
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _must(cuda.cuDeviceGetName(name, len(name), device))
    _must(cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    major = _attribute(cuda, COMPUTE_CAPABILITY_MAJOR, device)
    minor = _attribute(cuda, COMPUTE_CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major + minor, _version(cuda), memory.value)


def _attribute(cuda: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _must(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    return value.value


def _version(cuda: ctypes.CDLL) -> str:
    """The kernel module's, the number that NVIDIA's release notes and nvidia-smi go by; else CUDA's."""
    if (told := _kernel_module()) is not None:
        return told
    version = ctypes.c_int()
    _must(cuda.cuDriverGetVersion(ctypes.byref(version)))
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _kernel_module() -> str | None:
    """`580.65.06` out of "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …"."""
    try:
        text = KERNEL_MODULE.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else None


def _must(code: int) -> None:
    if code != 0:
        raise CudaRefusal(code)


def _unloadable(reason: str) -> str:
    """`libcuda.so.1: cannot open shared object file: No such file or directory` is the everyday case."""
    if reason.startswith(f"{LIBRARY}: cannot open shared object file"):
        return f"no NVIDIA driver is installed ({LIBRARY} is not found)"
    return f"the NVIDIA driver's library cannot be loaded ({reason})"
