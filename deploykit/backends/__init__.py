"""Inference libraries behind the Backend protocol, each imported only when it is used."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final, NamedTuple

from deploykit.core.errors import BackendError, UsageError, format_unknown
from deploykit.core.extras import install_remedy
from deploykit.core.values import Backend, BuildOptions

DEFAULT_OPTIONS: Final = BuildOptions()


class BackendEntry(NamedTuple):
    """A backend's class, the module it requires, and the extra of deploykit that installs it."""

    target: str
    requires: str
    extra: str


BACKENDS: Final[dict[str, BackendEntry]] = {
    "onnxruntime": BackendEntry("deploykit.backends.onnxruntime:OnnxRuntime", "onnxruntime", "cpu"),
    "onnxruntime-cuda": BackendEntry(
        "deploykit.backends.onnxruntime_cuda.backend:OnnxRuntimeCuda", "onnxruntime", "cuda"
    ),
    "openvino": BackendEntry("deploykit.backends.openvino:OpenVino", "openvino", "openvino"),
    "tensorrt": BackendEntry("deploykit.backends.tensorrt.backend:TensorRt", "tensorrt", "gpu"),
    "tensorrt-rtx": BackendEntry("deploykit.backends.tensorrt.backend:TensorRtRtx", "tensorrt_rtx", "rtx"),
}


def create_backend(name: str, options: BuildOptions = DEFAULT_OPTIONS) -> Backend:
    """Create a backend that compiles with `options`. UsageError for an unknown name, BackendError for a library that is
    not installed.
    """
    if name not in BACKENDS:
        raise UsageError(format_unknown("backend", name, BACKENDS), "")
    entry = BACKENDS[name]
    if not is_installed(name):
        raise BackendError(
            f"The backend {name} needs {entry.requires}, which is not installed.", install_remedy(entry.extra)
        )
    module, _, attribute = entry.target.partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)(options)
    return backend


def is_installed(name: str) -> bool:
    """Whether the backend's library is installed. A folder without code does not count: type stubs install one."""
    spec = importlib.util.find_spec(BACKENDS[name].requires)
    return spec is not None and spec.origin is not None
