"""What this machine can do, asked without importing anything heavy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from deploykit import cache
from deploykit.backends import BACKENDS
from deploykit.provenance import processor
from deploykit.values import Finding

CORE: Final = ("torch", "torchvision", "onnx", "onnx-ir", "onnxscript", "numpy", "pillow", "safetensors")

EXTRAS: Final = {"scikit-learn": "the set `digits`", "scikit-image": "the set `photos`"}

DISK_GIB: Final = 5.0
"""Below this, exports of large networks may not fit with their cache entries."""


def examine() -> tuple[Finding, ...]:
    """Every finding, in the order in which they matter."""
    return (_python(), *_core(), *_backends(), *_extras(), _cuda(), *_tools(), _machine(), _cache())


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _core() -> Iterator[Finding]:
    for name in CORE:
        version = _version(name)
        if version is None:
            yield Finding(name, "broken", "not installed", "pip install deploykit")
        else:
            yield Finding(name, "ok", version)


def _backends() -> Iterator[Finding]:
    for name, entry in BACKENDS.items():
        if importlib.util.find_spec(entry.requires) is None:
            yield Finding(name, "missing", f"{entry.requires} is not installed", entry.install)
        elif name == "onnxruntime":
            yield _onnxruntime()
        else:
            yield Finding(name, "ok", _version(entry.requires) or "of unknown origin")


def _onnxruntime() -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) is not None]
    if len(both) == 2:
        mend = "pip uninstall onnxruntime onnxruntime-gpu, then install the one you need"
        return Finding("onnxruntime", "broken", "two packages own the import name: " + " and ".join(both), mend)
    return Finding("onnxruntime", "ok", " ".join(f"{_version(name)} ({name})" for name in both) or "of unknown origin")


def _extras() -> Iterator[Finding]:
    for name, use in EXTRAS.items():
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", f"needed for {use}", "pip install 'deploykit[datasets]'")
        else:
            yield Finding(name, "ok", f"{version}, for {use}")


def _cuda() -> Finding:
    """A driver by its own files: no library of it is loaded."""
    version = Path("/proc/driver/nvidia/version")
    jetson = Path("/proc/device-tree/model")
    if version.is_file():
        return Finding("NVIDIA driver", "ok", version.read_text().splitlines()[0])
    if jetson.is_file() and "NVIDIA" in (model := jetson.read_text(errors="replace").strip("\0")):
        return Finding("NVIDIA driver", "ok", model)
    return Finding("NVIDIA driver", "missing", "no driver: graphs are built and checked on the CPU")


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


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
