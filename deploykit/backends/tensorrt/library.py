"""Import of the Python module of TensorRT or TensorRT-RTX."""

from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata
from typing import Any, Final, Literal, NamedTuple

from deploykit.core.errors import BackendError
from deploykit.core.extras import install_remedy

LibraryName = Literal["tensorrt", "tensorrt-rtx"]

OLDEST: Final = (8, 6)
"""The first TensorRT with version-compatible plans, and the one of JetPack 6.0."""


class Package(NamedTuple):
    """How a library is imported, which distributions may have brought it, and how it is installed."""

    title: str
    module: str
    distributions: tuple[str, ...]
    extra: str
    alternative: str = ""

    @property
    def remedy(self) -> str:
        """The command that installs it, and what else would."""
        return install_remedy(self.extra) + self.alternative


PACKAGES: Final[dict[LibraryName, Package]] = {
    "tensorrt": Package(
        "TensorRT",
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
        "gpu",
        "\nor, on a Jetson: sudo apt install python3-libnvinfer, and an environment that sees the system's packages "
        "(python3 -m venv --system-site-packages).",
    ),
    "tensorrt-rtx": Package(
        "TensorRT-RTX",
        "tensorrt_rtx",
        ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        "rtx",
    ),
}


def import_library(name: LibraryName) -> Any:
    """Import the module. BackendError where it is not installed, cannot be imported or is too old."""
    package = PACKAGES[name]
    try:
        module = importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        if error.name == package.module:
            raise BackendError(f"{package.title} is not installed.", package.remedy) from error
        raise _import_error(package, error) from error
    except (
        Exception
    ) as error:  # ImportError of a lacking libnvinfer.so.10, OSError of ctypes, a wheel's own RuntimeError
        raise _import_error(package, error) from error
    if not hasattr(module, "Builder"):  # type stubs bring a folder of that name, which imports as an empty module
        raise BackendError(f"{package.title} is not installed: its module {package.module} is empty.", package.remedy)
    if name == "tensorrt" and _major_minor(module.__version__) < OLDEST:
        what = f"TensorRT {module.__version__} is too old: deploykit needs {'.'.join(map(str, OLDEST))} or later."
        raise BackendError(what, package.remedy)
    return module


def library_version(name: LibraryName) -> str:
    """The version of the library that `import_library` imports, always as the same text: a plan runs only on the
    version that built it. Package metadata is read where possible, since a cold import of TensorRT takes seconds.
    BackendError where it is not installed.
    """
    package = PACKAGES[name]
    if package.module not in sys.modules:
        for distribution in package.distributions:
            try:
                return _strip_post_release(metadata.version(distribution))
            except metadata.PackageNotFoundError:
                continue
    return _strip_post_release(str(import_library(name).__version__))


def _strip_post_release(text: str) -> str:
    """`8.6.1.post1` (a repackaged wheel) → `8.6.1`, the module's own version."""
    return re.sub(r"\.post\d+$", "", text)


def _import_error(package: Package, error: Exception) -> BackendError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return BackendError(f"{package.title} is installed but cannot be imported: {reason}.", package.remedy)


def _major_minor(text: str) -> tuple[int, ...]:
    """`8.6.1.post1` → (8, 6)."""
    return tuple(map(int, re.findall(r"\d+", text)[:2]))
