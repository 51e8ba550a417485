"""Where a figure comes from: versions, machine and our own code, told without importing any of the libraries."""

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
"""What a result may depend on; those that are not installed are left out."""

PACKAGES: Final = ("deploykit", "deploykit.export.architectures", "deploykit.core.calibration")
"""All that holds our code. In a checkout the last two are links, which a search of the first does not follow."""


def provenance() -> Provenance:
    """Of whatever is made now, here."""
    return Provenance(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        deploykit=metadata.version("deploykit"),
        code_sha256=code_digest(),
        libraries=libraries(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        host=platform.node(),
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


@cache
def libraries() -> dict[str, str]:
    """Installed version by library."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_digest() -> str:
    """SHA-256 over every Python file and manifest of our packages: results of other code are not taken for ours."""
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


def processor() -> str:
    """The CPU's own name, from /proc/cpuinfo where that is, else what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
