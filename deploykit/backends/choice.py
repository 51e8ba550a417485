"""Which backend serves where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from deploykit.backends import BACKENDS, DEFAULT, backend, installed
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.values import Backend, BuildOptions, Precision

AUTO: Final = "auto"

ON_GPU: Final = ("tensorrt", "tensorrt-rtx")

AHEAD_OF_TIME: Final = "tensorrt-rtx"
"""Builds engines where there is no GPU."""

BUILD_ELSEWHERE: Final = (
    "Export for this machine, and run deploykit compile on the bundle where the engine is to run; "
    "--target tensorrt-rtx builds without a GPU."
)

PREFERRED: Final = ("onnxruntime", "openvino")

FOR_INT8: Final = ("openvino", "onnxruntime")
"""On a CPU, OpenVINO computes every layer of our Q/DQ graphs in INT8, ONNX Runtime those that it has kernels for."""

FOR_BF16: Final = ("openvino",)
"""ONNX Runtime's CPU provider has no BF16 convolution, and refuses the graph."""


class Targets(NamedTuple):
    """The backend whose engine is judged, and those whose engines are packed beside it."""

    judged: str
    beside: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    """Beside it too, if they take the graph: nobody asked for them by name."""


def targets(asked: Sequence[str], precision: Precision, options: BuildOptions = DEFAULT) -> Targets:
    """What `--target` means, given once or more: the first backend that this machine can run is judged, all others are
    beside it. Where it can run none of them, the graph is judged on the CPU.

    `auto` is TensorRT where a GPU is at hand, else a CPU backend, with a portable TensorRT-RTX engine beside it where
    that is installed. UsageError for unknown names, BackendError for a library that is not installed.
    """
    names = tuple(dict.fromkeys(asked))
    if AUTO in names:
        if len(names) > 1:
            raise UsageError("--target auto chooses by itself.", "Leave it out, or leave the others out.")
        judged = chosen(AUTO, precision)
        return Targets(judged, offered=offered() if judged not in ON_GPU else ())
    for name in names:
        if (reason := backend(name, options).build_obstacle()) is not None:
            raise BackendError(f"{name} cannot build engines here: {reason}.", BUILD_ELSEWHERE)
    runnable = [name for name in names if backend(name, options).obstacle() is None]
    judged = runnable[0] if runnable else on_cpu(precision)
    return Targets(judged, tuple(name for name in names if name != judged))


def offered() -> tuple[str, ...]:
    """What builds engines for a GPU where there is none."""
    return (AHEAD_OF_TIME,) if installed(AHEAD_OF_TIME) else ()


def chosen(target: str, precision: Precision) -> str:
    """The name of the backend that `target` means for a graph of that precision."""
    if target != AUTO:
        return target
    for name in ON_GPU:
        if installed(name) and backend(name).obstacle() is None:
            return name
    return on_cpu(precision)


def on_cpu(precision: Precision) -> str:
    """The backend that computes a graph of that precision on this machine's processor."""
    return _installed({"int8": FOR_INT8, "int8-fp16": FOR_INT8, "bf16": FOR_BF16}.get(precision, PREFERRED))


def reference() -> Backend:
    """The backend that runs FP32 graphs to try them, see their values and rank their layers."""
    return backend(_installed(PREFERRED))


def _installed(names: tuple[str, ...]) -> str:
    for name in names:
        if name in BACKENDS and installed(name):
            return name
    raise BackendError("No backend is installed.", BACKENDS[names[0]].install)
