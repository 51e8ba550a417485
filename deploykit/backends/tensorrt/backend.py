"""The TensorRT and TensorRT-RTX backends: compile graphs to plans, and load plans where a GPU runs them."""

from __future__ import annotations

import platform
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
import numpy as np

from deploykit.backends.gpu.driver import Gpu, query_driver
from deploykit.backends.gpu.foreign_engines import reject_foreign_engine
from deploykit.backends.gpu.memory import import_memory_library
from deploykit.backends.gpu.memory_library import INSTALLED_FIRST
from deploykit.backends.interface import read_interface
from deploykit.backends.tensorrt import inspector
from deploykit.backends.tensorrt.compile import check_options, compile_plan
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.gate import try_in_child
from deploykit.backends.tensorrt.library import LibraryName, import_library
from deploykit.backends.tensorrt.library import library_version as version_of
from deploykit.backends.tensorrt.runner import TensorRtRunner
from deploykit.backends.tensorrt.runtime import inspect_plan
from deploykit.core import cache
from deploykit.core.errors import BackendError, CheckFailed, DeploykitError
from deploykit.core.extras import pip_command
from deploykit.core.files import find_damage, record_file
from deploykit.core.products import find_products
from deploykit.core.values import BuildOptions, BuildRecord, Engine, EngineLayer, ExecutedPrecision, Progress

if TYPE_CHECKING:
    import onnx_ir as ir

PLAN_FILE: Final = "engine.plan"

PORTABLE_CAPABILITY: Final = 80
"""NVIDIA documents that a TensorRT-RTX engine built for no specific GPU runs on Ampere (8.0) and later."""

DEFAULT_OPTIONS: Final = BuildOptions()


class TensorRt:
    """TensorRT: builds for this machine's GPU by timing kernels on it."""

    name: ClassVar[LibraryName] = "tensorrt"
    opsets = range(9, 26)  # of 11; an older version reports it when it parses the graph

    def __init__(self, options: BuildOptions = DEFAULT_OPTIONS) -> None:
        self._options = options

    @property
    def version(self) -> str:
        """The installed library's version. BackendError where none is usable."""
        return version_of(self.name)

    @property
    def identity(self) -> str:
        """Name, version, GPU and driver, and build options."""
        gpu = query_driver().gpu
        device = f"{gpu.name} sm{gpu.compute_capability} {gpu.driver}" if gpu is not None else "no GPU"
        return f"{self.name} {self.version} {device} {msgspec.json.encode(self._options).decode()}"

    def cannot_build_reason(self) -> str | None:
        """A missing driver, since TensorRT needs the GPU it builds for, or a library that cannot be imported.

        BackendError or UsageError for an option that this version lacks, with the alternatives.
        """
        return query_driver().missing_reason or self._check_library()

    def unavailable_reason(self) -> str | None:
        """A missing driver, neither pycuda nor cuda-bindings, or a TensorRT that cannot be imported."""
        if (reason := query_driver().missing_reason) is not None:
            return reason
        if import_memory_library()[0] is None:
            remedy = pip_command("install", INSTALLED_FIRST)
            return f"neither cuda-bindings nor pycuda can be imported, which engines need for GPU memory ({remedy})"
        return _import_problem(self.name)

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:
        """Build `engine.plan` into `folder`, which also holds the graph.

        InputError for a graph that the parser or builder rejects, naming the nodes; BackendError for a missing GPU, an
        option that this version lacks, or a failed build.
        """
        import onnx_ir as ir

        if (reason := self.cannot_build_reason()) is not None:
            raise BackendError(f"{self.name} cannot build engines here: {reason}.", "See deploykit doctor.")
        gpu = query_driver().gpu
        plan = compile_plan(self._dialect, graph, folder / PLAN_FILE, self._options, gpu, progress)
        inputs, outputs = read_interface(ir.load(graph).graph)
        build = BuildRecord(
            graph=record_file(folder, str(graph.relative_to(folder))),
            platform=_platform_name(),
            gpu=gpu.name if gpu is not None else None,
            driver=gpu.driver if gpu is not None else None,
            compute_capabilities=self._target_capabilities(gpu),
            open_ended=self._is_open_ended,
            settings=plan.settings,
            seconds=plan.seconds,
            timing_cache_sha256=plan.timing_cache_sha256,
            options=self._options,
        )
        return Engine(self.name, self.version, record_file(folder, PLAN_FILE), inputs, outputs, build=build)

    def load(self, engine: Engine, folder: Path) -> TensorRtRunner:
        """A runner of the plan. BackendError where it was built for another platform, version or GPU, or where loading
        it in a child process fails; CheckFailed where the file differs from its record.
        """
        plan = self._verify_plan(engine, folder)
        assert engine.build is not None, "_verify_plan requires a build record"
        gpu, options = query_driver().gpu, engine.build.options
        assert gpu is not None, "_verify_plan requires a GPU"
        jit_file = f"{engine.file.sha256}-{_to_file_name(gpu.name)}-{_to_file_name(gpu.driver)}"
        return TensorRtRunner(
            self._dialect,
            plan,
            engine.inputs,
            engine.outputs,
            version_compatible=options.version_compatible,
            dla_core=options.dla_core,
            weights=folder / engine.build.graph.path if options.strip_weights else None,
            jit_file=cache.cache_folder() / "jit" / jit_file,
        )

    def read_executed_precision(self, engine: Engine, folder: Path) -> ExecutedPrecision:
        """The type each product of the ONNX graph computes in, from the engine inspector."""
        names = [layer.name or "" for layer in find_products(_source_graph(engine, folder))]
        return ExecutedPrecision(
            inspector.EVIDENCE, inspector.arithmetic_by_node(self.read_layers(engine, folder, 0), names)
        )

    def read_layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:
        """The engine's layers at its optimal batch, matched to the nodes of the source graph; with times where `calls`
        is not 0, for which the engine runs. Without times nothing runs, and no tensor needs GPU memory.
        """
        plan = self._verify_plan(engine, folder)
        assert engine.build is not None, "_verify_plan requires a build record"
        batch = engine.build.options.batch.optimum
        shapes = {
            spec.name: tuple(batch if isinstance(size, str) else size for size in spec.shape) for spec in engine.inputs
        }
        graph = _source_graph(engine, folder)
        if not calls:
            compatible = engine.build.options.version_compatible
            return inspector.parse_layers(inspect_plan(self._dialect, plan.read_bytes(), shapes, compatible), graph)
        arrays = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in engine.inputs}
        document, times_us = self.load(engine, folder).inspect_engine(arrays, calls)
        return inspector.add_times(inspector.parse_layers(document, graph), times_us)

    def _check_library(self) -> str | None:
        if (reason := _import_problem(self.name)) is None:
            check_options(self._dialect, self._options)
        return reason

    @cached_property
    def _dialect(self) -> Dialect:
        return Dialect(import_library(self.name))

    @property
    def _is_open_ended(self) -> bool:
        return False

    def _target_capabilities(self, gpu: Gpu | None) -> tuple[int, ...]:
        return (gpu.compute_capability,) if gpu is not None else ()

    def _verify_plan(self, engine: Engine, folder: Path) -> Path:
        """The plan's path, after all checks that do not load it into this process."""
        gpu, missing_reason = query_driver()
        if gpu is None:
            what = f"{engine.file.path} cannot run here: {missing_reason}."
            raise BackendError(what, "Run it on a machine with a GPU.")
        reject_foreign_engine(engine, self.version, gpu, _platform_name())
        if (wrong := find_damage(folder, engine.file)) is not None:
            raise CheckFailed(f"{wrong}.", f"Build it again: deploykit compile BUNDLE --target {self.name}.")
        plan = folder / engine.file.path
        compatible = engine.build is not None and engine.build.options.version_compatible
        try_in_child(self.name, plan, cache.cache_folder() / "tried", host_code=compatible)
        return plan


class TensorRtRtx(TensorRt):
    """TensorRT-RTX: builds without a GPU, and compiles kernels on the machine that runs the engine."""

    name: ClassVar[LibraryName] = "tensorrt-rtx"

    def cannot_build_reason(self) -> str | None:
        """A library that cannot be imported. BackendError or UsageError for an option that it lacks."""
        return self._check_library()

    @property
    def _is_open_ended(self) -> bool:
        return not self._options.compute_capabilities

    def _target_capabilities(self, gpu: Gpu | None) -> tuple[int, ...]:  # noqa: ARG002 - this machine's GPU does not matter
        return self._options.compute_capabilities or (PORTABLE_CAPABILITY,)


def _source_graph(engine: Engine, folder: Path) -> ir.Graph:
    import onnx_ir as ir

    assert engine.build is not None, "reject_foreign_engine requires a build record"
    return ir.load(folder / engine.build.graph.path).graph


def _import_problem(name: LibraryName) -> str | None:
    """Why the library cannot be imported, as a clause; None where it can."""
    try:
        import_library(name)
    except DeploykitError as error:
        return error.what.rstrip(".")
    return None


def _to_file_name(text: str) -> str:
    """`NVIDIA H200` → `nvidia-h200`."""
    return "-".join(text.lower().split())


def _platform_name() -> str:
    return f"{platform.system()} {platform.machine()}"
