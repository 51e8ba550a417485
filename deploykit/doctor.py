"""What this machine can do, asked without importing anything heavy."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from deploykit import cache
from deploykit.backends import BACKENDS, installed
from deploykit.backends.tensorrt.driver import Driver, driver
from deploykit.provenance import processor
from deploykit.values import Finding

CORE: Final = ("torch", "torchvision", "onnx", "onnx-ir", "onnxscript", "numpy", "pillow", "safetensors")

EXTRAS: Final = {
    "scikit-learn": ("the set `digits`", "datasets"),
    "scikit-image": ("the set `photos`", "datasets"),
    "pycuda": ("running TensorRT engines", "gpu"),
    "cuda-bindings": ("CUDA graphs", "gpu"),
    "nvidia-ml-py": ("clocks, temperature and power beside a GPU's latencies", "gpu"),
}
"""What each is needed for, and the extra that brings it."""

TENSORRT: Final = ("tensorrt", "tensorrt-rtx")

PATIENCE_S: Final = 2.5
"""How long both of them may take to be imported, at once; tensorrt_rtx 1.7.1 takes 0.1 s from a warm disk."""

DISK_GIB: Final = 5.0
"""Below this, exports of large networks may not fit with their cache entries."""


def examine() -> tuple[Finding, ...]:
    """Every finding, in the order in which they matter."""
    imports = {name: _importing(name) for name in TENSORRT if installed(name)}  # they run while the rest is looked at
    here = driver()
    rest = (*_extras(), _gpu(here), *_tools(), _machine(), _cache())
    return (_python(), *_core(), *_backends(imports, here), *rest)


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _core() -> Iterator[Finding]:
    for name in CORE:
        version = _version(name)
        if version is None:
            yield Finding(name, "broken", "not installed", "pip install deploykit")
        else:
            yield Finding(name, "ok", version)


def _backends(imports: dict[str, Importing], here: Driver) -> Iterator[Finding]:
    for name, entry in BACKENDS.items():
        if not installed(name):
            yield Finding(name, "missing", f"{entry.requires} is not installed", entry.install)
        elif name == "onnxruntime":
            yield _onnxruntime()
        elif name in imports:
            yield _tensorrt(name, imports[name], here)
        else:
            yield Finding(name, "ok", _origin(entry.requires))


def _onnxruntime() -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) is not None]
    if len(both) == 2:
        mend = "pip uninstall onnxruntime onnxruntime-gpu, then install the one you need"
        return Finding("onnxruntime", "broken", "two packages own the import name: " + " and ".join(both), mend)
    return Finding("onnxruntime", "ok", " ".join(f"{_version(name)} ({name})" for name in both) or "of unknown origin")


class Importing(NamedTuple):
    """A child process that imports a library, and the moment at which it is no longer waited for."""

    process: subprocess.Popen[str]
    deadline: float


IMPORT: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from deploykit.backends.tensorrt.library import library, version
from deploykit.errors import BackendError
try:
    library(sys.argv[1])
    answer = {"version": version(sys.argv[1])}
except BackendError as error:
    answer = {"what": error.what, "remedy": error.remedy}
print()
print(json.dumps(answer))
"""


def _importing(name: str) -> Importing:
    """In a child: a broken library may take its process down."""
    words = [sys.executable, "-c", IMPORT, name, json.dumps([path for path in sys.path if path])]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return Importing(process, time.monotonic() + PATIENCE_S)


def _tensorrt(name: str, importing: Importing, here: Driver) -> Finding:
    entry = BACKENDS[name]
    try:
        out, err = importing.process.communicate(timeout=max(importing.deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        importing.process.kill()
        importing.process.communicate()
        return Finding(name, "ok", f"{_origin(entry.requires)}; importing it takes long, and was not waited for")
    if (code := importing.process.returncode) != 0:
        return Finding(name, "broken", f"importing {entry.requires} failed: {_death(code, err)}", _again(entry.install))
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    if "what" in answer:
        return Finding(name, "broken", answer["what"], answer["remedy"])
    return _usable(name, answer["version"], here)


def _usable(name: str, version: str, here: Driver) -> Finding:
    """What an imported library is good for on this machine."""
    if here.gpu is not None:
        of_gpu = _dotted(here.gpu.compute_capability)
        return Finding(name, "ok", f"{version}: builds engines, runs those for compute capability {of_gpu}")
    if name == "tensorrt":
        return Finding(name, "missing", f"{version}: builds nothing, runs nothing here: {here.absence}")
    return Finding(name, "ok", f"{version}: builds engines; cannot run them: {here.absence}")


def _death(code: int, err: str) -> str:
    if code < 0:
        return f"the process died by {signal.Signals(-code).name}"
    return next((line for line in reversed(err.splitlines()) if line.strip()), f"exit code {code}")


def _again(install: str) -> str:
    return install.replace("pip install", "pip install --force-reinstall", 1)


def _extras() -> Iterator[Finding]:
    for name, (use, extra) in EXTRAS.items():
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", f"needed for {use}", f"pip install 'deploykit[{extra}]'")
        else:
            yield Finding(name, "ok", f"{version}, for {use}")


def _gpu(here: Driver) -> Finding:
    if here.gpu is None:
        ungiven = "; its kernel module is loaded, so this may be a container that was not given the GPU"
        loaded = ungiven if Path("/proc/driver/nvidia/version").is_file() else ""
        return Finding("GPU", "missing", f"{here.absence}{loaded}: graphs are built and checked on the CPU")
    name, capability, version, memory = here.gpu
    said = f"{name}, compute capability {_dotted(capability)}, {memory / 2**30:.1f} GiB, driver {version}"
    return Finding("GPU", "ok", f"{said}, in {board}" if (board := _jetson()) else said)


def _jetson() -> str | None:
    """The board's own name, where it is one of NVIDIA's."""
    model = Path("/proc/device-tree/model")
    name = model.read_text(errors="replace").strip("\0") if model.is_file() else ""
    return name if "NVIDIA" in name else None


def _dotted(capability: int) -> str:
    """`9.0` for 90."""
    return f"{capability // 10}.{capability % 10}"


def _tools() -> Iterator[Finding]:
    for name, use in (("nvcc", "CUDA code"), ("cmake", "C++ applications"), ("g++", "C++ applications")):
        path = shutil.which(name)
        yield Finding(name, "ok", path) if path else Finding(name, "missing", f"only needed for {use}")


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("machine", "ok", f"{processor()}, {cores} cores, {platform.system()} {platform.machine()}")


def _cache() -> Finding:
    folder = cache.folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding("cache", "broken", f"{existing} is not a folder", f"set {cache.FOLDER_VARIABLE}")
    if not os.access(existing, os.W_OK):
        return Finding("cache", "broken", f"{folder} cannot be written", f"set {cache.FOLDER_VARIABLE}")
    free = shutil.disk_usage(existing).free / 2**30
    if free < DISK_GIB:
        return Finding("cache", "broken", f"{folder}: only {free:.1f} GiB free", f"set {cache.FOLDER_VARIABLE}")
    return Finding("cache", "ok", f"{folder}, {free:.0f} GiB free")


def _origin(name: str) -> str:
    return _version(name) or "of unknown origin"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
