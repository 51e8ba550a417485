"""The engine of a bundle that the C++ library loads by default, by the rule of its `src/engine.cpp`.

It tries the runtimes that it was built with in a fixed order, TensorRT and then ONNX Runtime: it has none for OpenVINO
and TensorRT-RTX. CMake builds in those that it finds on the machine. TensorRT loads the first of its engines that fits
the machine, ONNX Runtime the first of its own, else the graph. Here an engine fits if this bundle records that it ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from deploykit.core.values import Engine, Latency, Manifest, PrecisionReceipt

CPP_RUNTIMES: Final = ("tensorrt", "onnxruntime")
"""Backends in the order in which the C++ library tries their runtimes."""


class CppChoice(NamedTuple):
    """The engine that the C++ library loads, and what was measured of it in Python."""

    backend: str
    version: str
    """Empty for a graph that no engine in the bundle names: then nothing of it was measured."""
    file: str
    is_primary: bool
    receipt: PrecisionReceipt | None = None
    latency: Latency | None = None
    failures: tuple[str, ...] = ()
    """Failed checks of its outputs."""


def choose_cpp_engine(manifest: Manifest) -> CppChoice:
    """The engine that the C++ library loads on a machine like the one that exported the bundle."""
    candidates = tuple(_list_candidates(manifest))
    for runtime in CPP_RUNTIMES:
        for choice in candidates:
            if choice.backend == runtime:
                return choice
    return CppChoice("onnxruntime", "", manifest.graph.file, is_primary=False)


def _list_candidates(manifest: Manifest) -> Iterator[CppChoice]:
    """Engines that ran and that the C++ library can load, the primary one first."""
    primary = manifest.engine
    if _is_loadable(primary):
        yield CppChoice(
            primary.backend,
            primary.version,
            primary.file.path,
            True,
            manifest.receipt,
            manifest.latency,
            manifest.parity.failures,
        )
    for other in manifest.extra_engines:
        engine = other.engine
        ran = other.not_run_reason is None or engine.build is None  # a graph needs no machine of its own
        if ran and _is_loadable(engine):
            failures = other.parity.failures if other.parity is not None else ()
            yield CppChoice(
                engine.backend, engine.version, engine.file.path, False, other.receipt, other.latency, failures
            )


def _is_loadable(engine: Engine) -> bool:
    """Whether the engine has its weights: only Python restores those of a stripped one."""
    return engine.build is None or not engine.build.options.strip_weights
