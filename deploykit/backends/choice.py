"""Which backend serves where the user names none."""

from __future__ import annotations

from typing import Final

from deploykit.backends import BACKENDS, backend, installed
from deploykit.errors import BackendError
from deploykit.values import Backend, Precision

AUTO: Final = "auto"

PREFERRED: Final = ("onnxruntime", "openvino")

FOR_INT8: Final = ("openvino", "onnxruntime")
"""On a CPU, OpenVINO computes every layer of our Q/DQ graphs in INT8, ONNX Runtime those that it has kernels for."""

FOR_BF16: Final = ("openvino",)
"""ONNX Runtime's CPU provider has no BF16 convolution, and refuses the graph."""


def chosen(target: str, precision: Precision) -> str:
    """The name of the backend that `target` means for a graph of that precision."""
    if target != AUTO:
        return target
    return _installed({"int8": FOR_INT8, "int8-fp16": FOR_INT8, "bf16": FOR_BF16}.get(precision, PREFERRED))


def reference() -> Backend:
    """The backend that runs FP32 graphs to try them, see their values and rank their layers."""
    return backend(_installed(PREFERRED))


def _installed(names: tuple[str, ...]) -> str:
    for name in names:
        if name in BACKENDS and installed(name):
            return name
    raise BackendError("No backend is installed.", BACKENDS[names[0]].install)
