"""Inference libraries, each behind the Backend protocol, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final, NamedTuple

from deploykit.errors import BackendError, UsageError, unknown
from deploykit.values import Backend


class Entry(NamedTuple):
    """Where a backend lives, which module it needs, and how that is installed."""

    target: str
    requires: str
    install: str


BACKENDS: Final[dict[str, Entry]] = {
    "onnxruntime": Entry("deploykit.backends.onnxruntime:OnnxRuntime", "onnxruntime", "pip install 'deploykit[cpu]'"),
    "openvino": Entry("deploykit.backends.openvino:OpenVino", "openvino", "pip install 'deploykit[openvino]'"),
}


def backend(name: str) -> Backend:
    """The backend of that name. UsageError for a name that does not exist, BackendError for what is not installed."""
    if name not in BACKENDS:
        raise UsageError(unknown("backend", name, BACKENDS), "")
    entry = BACKENDS[name]
    if importlib.util.find_spec(entry.requires) is None:
        raise BackendError(f"The backend {name} needs {entry.requires}, which is not installed.", entry.install)
    module, _, attribute = entry.target.partition(":")
    made: Backend = getattr(importlib.import_module(module), attribute)()
    return made
