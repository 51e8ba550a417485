"""TensorRT and TensorRT-RTX as backends: graphs in, plans out, plans loaded where a GPU runs them."""

from __future__ import annotations

import importlib.util
import platform
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
import numpy as np

from deploykit.backends.interface import interface
from deploykit.backends.tensorrt import inspector
from deploykit.backends.tensorrt.build import build, refuse_options
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.driver import Gpu, driver
from deploykit.backends.tensorrt.gate import refuse_foreign, try_in_child
from deploykit.backends.tensorrt.library import Name, library
from deploykit.backends.tensorrt.library import version as version_of
from deploykit.backends.tensorrt.run import TensorRtRunner
from deploykit.backends.weighted_layers import layers as multiplying
from deploykit.core import cache
from deploykit.core.errors import BackendError, CheckFailed, DeploykitError
from deploykit.core.files import damage, record
from deploykit.core.values import BuildOptions, BuildRecord, Engine, EngineLayer, Executed, Progress

if TYPE_CHECKING:
    import onnx_ir as ir

PLAN: Final = "engine.plan"

PORTABLE: Final = 80
"""NVIDIA documents an engine of TensorRT-RTX that names no GPU as one for Ampere, 8.0, and later."""

DEFAULT: Final = BuildOptions()


class TensorRt:
    """TensorRT: it builds for the GPU at hand, by timing kernels on it."""

    name: ClassVar[Name] = "tensorrt"
    opsets = range(9, 26)  # of 11; an older one says so itself when it parses

    def __init__(self, options: BuildOptions = DEFAULT) -> None:
        self._options = options

    @property
    def version(self) -> str:
        """Of the installed library. BackendError where there is none that can be used."""
        return version_of(self.name)

    @property
    def identity(self) -> str:
        """Name, version, the GPU and driver, and the options."""
        gpu = driver().gpu
        here = f"{gpu.name} sm{gpu.compute_capability} {gpu.driver}" if gpu is not None else "no GPU"
        return f"{self.name} {self.version} {here} {msgspec.json.encode(self._options).decode()}"

    def build_obstacle(self) -> str | None:
        """A missing driver, as TensorRT needs the GPU that it builds for; a library that cannot be imported.

        BackendError or UsageError for an option that the library does not have: it says itself what there is instead.
        """
        return driver().absence or self._unready()

    def obstacle(self) -> str | None:
        """A missing driver, a missing pycuda, a library that cannot be imported."""
        if (absence := driver().absence) is not None:
            return absence
        if importlib.util.find_spec("pycuda") is None:
            return "pycuda is not installed, which runs engines (pip install 'deploykit[gpu]')"
        return _unusable(self.name)

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:
        """Build `engine.plan` into `folder`, where the graph lies too.

        InputError for a graph that the parser or builder does not take, with its nodes; BackendError for a missing GPU,
        for an option that this version lacks, and for a build that fails.
        """
        import onnx_ir as ir

        if (obstacle := self.build_obstacle()) is not None:
            raise BackendError(f"{self.name} cannot build engines here: {obstacle}.", "See deploykit doctor.")
        gpu = driver().gpu
        plan = build(self._dialect, graph, folder / PLAN, self._options, gpu, progress)
        inputs, outputs = interface(ir.load(graph).graph)
        made = BuildRecord(
            graph=record(folder, str(graph.relative_to(folder))),
            platform=_platform(),
            gpu=gpu.name if gpu is not None else None,
            driver=gpu.driver if gpu is not None else None,
            compute_capabilities=self._capabilities(gpu),
            open_ended=self._open_ended,
            settings=plan.settings,
            seconds=plan.seconds,
            timing_cache_sha256=plan.timing_cache_sha256,
            options=self._options,
        )
        return Engine(self.name, self.version, record(folder, PLAN), inputs, outputs, build=made)

    def load(self, engine: Engine, folder: Path) -> TensorRtRunner:
        """A runner of the plan. BackendError where it was built for another platform, version or GPU, or where a child
        process that tries it fails; CheckFailed where it is not the file that was recorded.
        """
        plan = self._admitted(engine, folder)
        assert engine.build is not None, "no engine is admitted without"
        told, options = driver(), engine.build.options
        assert told.gpu is not None, "nor without a GPU"
        compiled = f"{engine.file.sha256}-{_word(told.gpu.name)}-{_word(told.gpu.driver)}"
        return TensorRtRunner(
            self._dialect,
            plan,
            engine.inputs,
            engine.outputs,
            version_compatible=options.version_compatible,
            weights=folder / engine.build.graph.path if options.strip_weights else None,
            jit_file=cache.folder() / "jit" / compiled,
        )

    def executed(self, engine: Engine, folder: Path) -> Executed:
        """What each layer of the ONNX graph computes in, from the engine's own inspector."""
        names = [layer.name or "" for layer in multiplying(_graph(engine, folder))]
        return Executed(inspector.EVIDENCE, inspector.arithmetic(self.layers(engine, folder, 0), names))

    def layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:
        """The engine's layers at its best batch, joined to the nodes of the graph that it was built from; with their
        times where some `calls` are profiled.
        """
        assert engine.build is not None, "an engine of ours says how it was built"
        batch = engine.build.options.batch.optimum
        shapes = {
            spec.name: [batch if isinstance(size, str) else size for size in spec.shape] for spec in engine.inputs
        }
        arrays = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in engine.inputs}
        document, times_us = self.load(engine, folder).inspected(arrays, calls)
        found = inspector.layers(document, _graph(engine, folder))
        return inspector.timed(found, times_us) if calls else found

    def _unready(self) -> str | None:
        if (reason := _unusable(self.name)) is None:
            refuse_options(self._dialect, self._options)
        return reason

    @cached_property
    def _dialect(self) -> Dialect:
        return Dialect(library(self.name))

    @property
    def _open_ended(self) -> bool:
        return False

    def _capabilities(self, gpu: Gpu | None) -> tuple[int, ...]:
        return (gpu.compute_capability,) if gpu is not None else ()

    def _admitted(self, engine: Engine, folder: Path) -> Path:
        """The plan's file, behind every check that needs no library and one that could end a process."""
        gpu, absence = driver()
        if gpu is None:
            raise BackendError(f"{engine.file.path} cannot run here: {absence}.", "Run it on a machine with a GPU.")
        refuse_foreign(engine, self.version, gpu, _platform())
        if (wrong := damage(folder, engine.file)) is not None:
            raise CheckFailed(f"{wrong}.", f"Build it again: deploykit compile BUNDLE --target {self.name}.")
        plan = folder / engine.file.path
        compatible = engine.build is not None and engine.build.options.version_compatible
        try_in_child(self.name, plan, cache.folder() / "tried", host_code=compatible)
        return plan


class TensorRtRtx(TensorRt):
    """TensorRT-RTX: it builds for GPUs that need not be there, and compiles kernels where the engine runs."""

    name: ClassVar[Name] = "tensorrt-rtx"

    def build_obstacle(self) -> str | None:
        """Nothing but a library that cannot be imported, or an option that it does not have."""
        return self._unready()

    @property
    def _open_ended(self) -> bool:
        return not self._options.compute_capabilities

    def _capabilities(self, gpu: Gpu | None) -> tuple[int, ...]:  # noqa: ARG002 - it does not matter what is here
        return self._options.compute_capabilities or (PORTABLE,)


def _graph(engine: Engine, folder: Path) -> ir.Graph:
    import onnx_ir as ir

    assert engine.build is not None, "refuse_foreign lets no engine pass without"
    return ir.load(folder / engine.build.graph.path).graph


def _unusable(name: Name) -> str | None:
    """Why the library cannot be imported, as half a sentence."""
    try:
        library(name)
    except DeploykitError as error:
        return error.what.rstrip(".")
    return None


def _word(text: str) -> str:
    """`NVIDIA H200` as `nvidia-h200`, for names of files."""
    return "-".join(text.lower().split())


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"
