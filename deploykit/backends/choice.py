"""Choice of backends: what `--target` selects on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from deploykit.backends import BACKENDS, DEFAULT_OPTIONS, create_backend, is_installed
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.extras import install_remedy
from deploykit.core.values import Backend, BuildOptions, Precision

AUTO: Final = "auto"

ON_GPU: Final = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda")
"""In order of preference."""

WITHOUT_INT8: Final = ("onnxruntime-cuda",)
"""Backends that compute Q/DQ graphs in floating point."""

WITH_BUILD_OPTIONS: Final = ("tensorrt", "tensorrt-rtx")
"""Backends that build an engine ahead of loading it, and take options for that."""

AHEAD_OF_TIME: Final = "tensorrt-rtx"
"""The backend that builds engines on machines without a GPU."""

BUILD_ELSEWHERE: Final = (
    "Export for this machine, then run `deploykit compile` on the bundle on the machine that will run the engine; "
    "--target tensorrt-rtx builds without a GPU."
)

PREFERRED: Final = ("onnxruntime", "openvino")

FOR_INT8: Final = ("openvino", "onnxruntime")
"""On a CPU, OpenVINO computes every layer of our Q/DQ graphs in INT8; ONNX Runtime only those it has kernels for."""

FOR_BF16: Final = ("openvino",)
"""ONNX Runtime's CPU provider has no BF16 convolution and rejects the graph."""


class Targets(NamedTuple):
    """The backend whose engine is evaluated for parity, and those that build additional engines."""

    primary: str
    extra_engines: tuple[str, ...] = ()
    optional_engines: tuple[str, ...] = ()
    """Additional engines that the user did not name: skipped where the library does not accept the graph."""
    fallback_targets: tuple[str, ...] = ()
    """Backends to take in order where the primary one's engine does not compute its graph."""


def select_targets(requested: Sequence[str], precision: Precision, options: BuildOptions = DEFAULT_OPTIONS) -> Targets:
    """Resolve the values of `--target`: the first backend that this machine can run is the primary one, all others
    build extra engines. Where this machine can run none of them, a CPU backend is the primary one.

    `auto` is TensorRT where there is a GPU, else a CPU backend, plus a portable TensorRT-RTX engine where that library
    is installed, and beside OpenVINO's INT8 engine one of ONNX Runtime, which the C++ library runs. UsageError for
    unknown names, BackendError for a library that is not installed.
    """
    names = tuple(dict.fromkeys(requested))
    if AUTO in names:
        if len(names) > 1:
            raise UsageError(
                "--target auto selects the backend itself and cannot be combined with other targets.",
                "Give either --target auto or the names of backends.",
            )
        primary = resolve_target(AUTO, precision)
        others = find_optional_engines() if primary not in ON_GPU else ()
        optional = (*find_cpp_engines(primary, precision), *others)
        return Targets(primary, optional_engines=optional, fallback_targets=find_fallbacks(primary, precision))
    for name in names:
        if (reason := create_backend(name, options).cannot_build_reason()) is not None:
            raise BackendError(f"{name} cannot build engines here: {reason}.", BUILD_ELSEWHERE)
    runnable = [name for name in names if create_backend(name, options).unavailable_reason() is None]
    primary = runnable[0] if runnable else select_cpu_backend(precision)
    return Targets(primary, tuple(name for name in names if name != primary))


def find_fallbacks(primary: str, precision: Precision) -> tuple[str, ...]:
    """The other CPU backends for a graph of that precision, where installed."""
    return tuple(name for name in _cpu_preference(precision) if name != primary and is_installed(name))


def find_cpp_engines(primary: str, precision: Precision) -> tuple[str, ...]:
    """The backend whose engine the C++ library runs beside an INT8 engine of OpenVINO, for which it has no runtime.

    Without an engine of its own, ONNX Runtime computes the Q/DQ graph of a bundle in floating point.
    """
    is_int8_on_cpu = primary == "openvino" and precision.startswith("int8")
    return ("onnxruntime",) if is_int8_on_cpu and is_installed("onnxruntime") else ()


def find_optional_engines() -> tuple[str, ...]:
    """The backends that build GPU engines on a machine without a GPU, where installed."""
    return (AHEAD_OF_TIME,) if is_installed(AHEAD_OF_TIME) else ()


def resolve_target(target: str, precision: Precision) -> str:
    """Resolve `auto` to the name of a backend for a graph of that precision."""
    if target != AUTO:
        return target
    for name in ON_GPU:
        if name in WITHOUT_INT8 and precision.startswith("int8"):
            continue
        if is_installed(name) and create_backend(name).unavailable_reason() is None:
            return name
    return select_cpu_backend(precision)


def select_cpu_backend(precision: Precision) -> str:
    """The CPU backend for a graph of that precision."""
    return _first_installed(_cpu_preference(precision))


def _cpu_preference(precision: Precision) -> tuple[str, ...]:
    return {"int8": FOR_INT8, "int8-fp16": FOR_INT8, "bf16": FOR_BF16}.get(precision, PREFERRED)


def reference_backend() -> Backend:
    """The CPU backend that runs FP32 graphs for checks, calibration and layer ranking."""
    return create_backend(_first_installed(PREFERRED))


def _first_installed(names: tuple[str, ...]) -> str:
    for name in names:
        if name in BACKENDS and is_installed(name):
            return name
    raise BackendError("No backend is installed.", install_remedy(BACKENDS[names[0]].extra))
