"""The Python module of TensorRT or TensorRT-RTX, or why it cannot be had."""

from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata
from typing import Any, Final, Literal, NamedTuple

from deploykit.core.errors import BackendError

Name = Literal["tensorrt", "tensorrt-rtx"]

OLDEST: Final = (8, 6)
"""The first TensorRT with version-compatible plans, and the one of JetPack 6.0."""


class Package(NamedTuple):
    """How a library is imported, which distributions may have brought it, and how it is installed."""

    title: str
    module: str
    distributions: tuple[str, ...]
    remedy: str


PACKAGES: Final[dict[Name, Package]] = {
    "tensorrt": Package(
        "TensorRT",
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
        "pip install 'deploykit[gpu]'; on a Jetson: sudo apt install python3-libnvinfer, and an environment that sees "
        "the system's packages (python -m venv --system-site-packages).",
    ),
    "tensorrt-rtx": Package(
        "TensorRT-RTX",
        "tensorrt_rtx",
        ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        "pip install 'deploykit[rtx]'",
    ),
}


def library(name: Name) -> Any:
    """The imported module. BackendError that quotes why it cannot be imported, or that it is too old."""
    package = PACKAGES[name]
    try:
        module = importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        if error.name == package.module:
            raise BackendError(f"{package.title} is not installed.", package.remedy) from error
        raise _unusable(package, error) from error
    except (
        Exception
    ) as error:  # ImportError of a lacking libnvinfer.so.10, OSError of ctypes, a wheel's own RuntimeError
        raise _unusable(package, error) from error
    if not hasattr(module, "Builder"):  # type stubs bring a folder of that name, which imports as an empty module
        raise BackendError(f"{package.title} is not installed: its module {package.module} is empty.", package.remedy)
    if name == "tensorrt" and _numbers(module.__version__) < OLDEST:
        what = f"TensorRT {module.__version__} is too old: deploykit needs {'.'.join(map(str, OLDEST))} or later."
        raise BackendError(what, package.remedy)
    return module


def version(name: Name) -> str:
    """Of the library that `library` would give, the same text wherever it was read: plans are taken by the version that
    built them and no other. What pip or apt recorded is enough: importing TensorRT takes seconds where it is cold.
    BackendError where there is none.
    """
    package = PACKAGES[name]
    if package.module not in sys.modules:
        for distribution in package.distributions:
            try:
                return _released(metadata.version(distribution))
            except metadata.PackageNotFoundError:
                continue
    return _released(str(library(name).__version__))


def _released(text: str) -> str:
    """`8.6.1.post1`, a wheel that was packed again, as `8.6.1`: what its module says."""
    return re.sub(r"\.post\d+$", "", text)


def _unusable(package: Package, error: Exception) -> BackendError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return BackendError(f"{package.title} is installed and cannot be imported: {reason}.", package.remedy)


def _numbers(text: str) -> tuple[int, ...]:
    """`8.6.1.post1` as (8, 6)."""
    return tuple(map(int, re.findall(r"\d+", text)[:2]))
