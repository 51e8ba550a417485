"""Inference libraries, each behind the Backend protocol, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final, NamedTuple

from deploykit.core.errors import BackendError, UsageError, unknown
from deploykit.core.values import Backend, BuildOptions

DEFAULT: Final = BuildOptions()


class Entry(NamedTuple):
    """Where a backend lives, which module it needs, and how that is installed."""

    target: str
    requires: str
    install: str


BACKENDS: Final[dict[str, Entry]] = {
    "onnxruntime": Entry("deploykit.backends.onnxruntime:OnnxRuntime", "onnxruntime", "pip install 'deploykit[cpu]'"),
    "openvino": Entry("deploykit.backends.openvino:OpenVino", "openvino", "pip install 'deploykit[openvino]'"),
    "tensorrt": Entry("deploykit.backends.tensorrt.backend:TensorRt", "tensorrt", "pip install 'deploykit[gpu]'"),
    "tensorrt-rtx": Entry(
        "deploykit.backends.tensorrt.backend:TensorRtRtx", "tensorrt_rtx", "pip install 'deploykit[rtx]'"
    ),
}


def backend(name: str, options: BuildOptions = DEFAULT) -> Backend:
    """The backend of that name, compiling as `options` say. UsageError for a name that does not exist, BackendError for
    what is not installed.
    """
    if name not in BACKENDS:
        raise UsageError(unknown("backend", name, BACKENDS), "")
    entry = BACKENDS[name]
    if not installed(name):
        raise BackendError(f"The backend {name} needs {entry.requires}, which is not installed.", entry.install)
    module, _, attribute = entry.target.partition(":")
    made: Backend = getattr(importlib.import_module(module), attribute)(options)
    return made


def installed(name: str) -> bool:
    """Whether the backend's library is there. A folder without code is not: type stubs bring one of that name."""
    spec = importlib.util.find_spec(BACKENDS[name].requires)
    return spec is not None and spec.origin is not None
