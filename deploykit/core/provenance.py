"""Provenance of results: library versions, machine and digest of deploykit's code, without importing the libraries."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from deploykit.core.values import Provenance

LIBRARIES: Final = (
    *("torch", "torchvision", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings"),
    *("numpy", "pillow", "scikit-learn", "scikit-image"),
)
"""Libraries that a result may depend on; those that are not installed are left out."""

PACKAGES: Final = ("deploykit", "deploykit.export.architectures", "deploykit.core.calibration")
"""Packages with deploykit's code. In a checkout the last two are symbolic links, which a search of the first does not
follow."""


def collect_provenance() -> Provenance:
    """Collect the provenance of a result created now on this machine."""
    return Provenance(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        deploykit=metadata.version("deploykit"),
        code_sha256=code_digest(),
        libraries=list_libraries(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        host=platform.node(),
        processor=processor_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


@cache
def list_libraries() -> dict[str, str]:
    """List the installed libraries with their versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def code_digest() -> str:
    """SHA-256 over every Python and TOML file of deploykit's packages, so that results of other code are not reused."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for path in sorted({*folder.rglob("*.py"), *folder.rglob("*.toml")}):
            digest.update(f"{package}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def processor_name() -> str:
    """The CPU's product name from /proc/cpuinfo, else the name that Python reports."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
