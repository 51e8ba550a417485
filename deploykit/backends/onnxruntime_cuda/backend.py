"""The backend `onnxruntime-cuda`."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from deploykit.backends.gpu.driver import query_driver
from deploykit.backends.gpu.foreign_engines import reject_foreign_engine
from deploykit.backends.gpu.memory import load_memory_library
from deploykit.backends.interface import read_interface
from deploykit.backends.onnxruntime import BIAS_QUANTIZATION
from deploykit.backends.onnxruntime_cuda import session as sessions
from deploykit.backends.onnxruntime_cuda.runner import CudaRunner
from deploykit.backends.onnxruntime_cuda.session import COMMON, DISABLED, Settings, open_session
from deploykit.backends.onnxruntime_package import find_package
from deploykit.backends.onnxruntime_profile import RunNode, read_profile
from deploykit.backends.sample_inputs import make_sample_inputs
from deploykit.core.errors import BackendError, CheckFailed, DeploykitError
from deploykit.core.files import find_damage, record_file
from deploykit.core.products import find_products
from deploykit.core.values import (
    BuildOptions,
    BuildRecord,
    Engine,
    EngineLayer,
    ExecutedPrecision,
    Progress,
    TensorSpec,
)

ENGINE_FILE: Final = "onnxruntime-cuda.onnx"

CALLS: Final = 50
"""Timed calls of a candidate, after the warm-up."""

DEFAULT_OPTIONS: Final = BuildOptions()


class Candidate(NamedTuple):
    """A graph and the settings that its session is opened with."""

    graph: Path
    settings: Settings


class OnnxRuntimeCuda:
    """ONNX Runtime's CUDA provider. The engine is the graph itself or its form, whichever is faster on this GPU."""

    name = "onnxruntime-cuda"
    opsets = range(7, 27)  # of 1.31; an older version reports it when it loads the graph

    def __init__(self, options: BuildOptions = DEFAULT_OPTIONS) -> None:
        self._options = options

    @property
    def version(self) -> str:
        """The version of the library that is loaded. BackendError where none is installed."""
        return find_package().version

    @property
    def identity(self) -> str:
        """Name, version, GPU and driver, and the batch size that layouts are compared at."""
        gpu = query_driver().gpu
        device = f"{gpu.name} sm{gpu.compute_capability} {gpu.driver}" if gpu is not None else "no GPU"
        return f"{self.name} {self.version} {device} {msgspec.json.encode(self._options.batch).decode()}"

    def cannot_build_reason(self) -> str | None:
        """As `unavailable_reason`: layouts are compared on the GPU."""
        return self.unavailable_reason()

    def unavailable_reason(self) -> str | None:
        """A missing driver, a build of ONNX Runtime without the provider, or no library for GPU memory."""
        if (reason := query_driver().missing_reason) is not None:
            return reason
        if (reason := sessions.find_missing_provider()) is not None:
            return reason
        try:
            load_memory_library()
        except DeploykitError as error:
            return error.what.rstrip(".")
        return None

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:  # noqa: ARG002 - quick
        """Choose the layout, and between the graph and its form, by their time on this GPU at the optimal batch.

        The form is written into `folder`, which also holds the graph, as `onnxruntime-cuda.onnx` where it is faster or
        needed. InputError for a graph that ONNX Runtime rejects, BackendError where there is no GPU.
        """
        import onnx_ir as ir

        if (reason := self.cannot_build_reason()) is not None:
            raise BackendError(f"{self.name} cannot build engines here: {reason}.", "See deploykit doctor.")
        started = time.perf_counter()
        model = ir.load(graph)
        inputs, outputs = read_interface(model.graph)
        with tempfile.TemporaryDirectory(prefix=f".{self.name}.partial-", dir=folder) as scratch:
            candidates = self._list_candidates(graph, Path(scratch))
            times_ms = [self._time_candidate(candidate, inputs, outputs) for candidate in candidates]
            fastest = candidates[int(np.argmin(times_ms))]
            nodes = _profile_call(fastest, inputs, self._options.batch.optimum)
            file = _keep_graph(fastest.graph, graph, folder)
        gpu = query_driver().gpu
        assert gpu is not None, "cannot_build_reason requires a GPU"
        build = BuildRecord(
            graph=record_file(folder, str(graph.relative_to(folder))),
            platform=f"{platform.system()} {platform.machine()}",
            gpu=gpu.name,
            driver=gpu.driver,
            compute_capabilities=(gpu.compute_capability,),
            open_ended=False,
            settings=fastest.settings,
            seconds=time.perf_counter() - started,
            timing_cache_sha256=None,
            options=self._options,
        )
        caveats = tuple(_list_caveats(nodes, model.graph))
        return Engine(self.name, self.version, record_file(folder, file), inputs, outputs, caveats, build)

    def write_form(self, graph: Path, folder: Path) -> Path:
        """Write the graph with biases as sums of their own into `folder`. InputError where it cannot be written."""
        import onnx_ir as ir

        from deploykit.backends.graph_form import write_form
        from deploykit.backends.onnxruntime_cuda.form import separate_biases

        model = ir.load(graph)
        separate_biases(model.graph)
        write_form(model, folder / ENGINE_FILE)
        return folder / ENGINE_FILE

    def load(self, engine: Engine, folder: Path) -> CudaRunner:
        """A runner of the engine's graph. BackendError where it was built for another platform, version or GPU, or
        where there is none; CheckFailed where the file differs from its record.
        """
        candidate = self._verify_engine(engine, folder)
        return CudaRunner(candidate.graph, candidate.settings, engine.inputs, engine.outputs)

    def read_executed_precision(self, engine: Engine, folder: Path) -> ExecutedPrecision:
        """The type each product's kernel multiplies in, by the name of its ONNX node."""
        import onnx_ir as ir

        from deploykit.backends.onnxruntime_cuda import receipt

        assert engine.build is not None, "every engine of this backend has a build record"
        candidate = self._verify_engine(engine, folder)
        nodes = _profile_call(candidate, engine.inputs, self._options.batch.optimum)
        products = find_products(ir.load(folder / engine.build.graph.path).graph)
        arithmetic = receipt.read_arithmetic(nodes, products)
        if "fp16" not in arithmetic.values():
            return ExecutedPrecision(receipt.EVIDENCE, arithmetic)
        kernels = _read_kernels(candidate, engine.inputs, self._options.batch.optimum)
        return receipt.confirm_half(arithmetic, kernels)

    def read_layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:  # noqa: ARG002
        """The nodes that ran at the optimal batch, and on which provider. Without times: the profile's are the host's,
        which does not wait for the GPU.
        """
        from deploykit.backends.onnxruntime_cuda import receipt

        return tuple(
            EngineLayer(
                name=node.name,
                kind=node.operator,
                arithmetic=receipt.read_node_arithmetic(node),
                tactic=node.provider,
                inputs=node.input_types,
                outputs=node.output_types,
                nodes=(node.name,),
                modules=(),
                time_us=None,
            )
            for node in self._profile_engine(engine, folder)
        )

    def _list_candidates(self, graph: Path, scratch: Path) -> tuple[Candidate, ...]:
        """The graph, and its form in `scratch` where it has biases; each channels first and channels last."""
        from deploykit.backends.onnxruntime_cuda.form import FUSION, has_biases

        disabled = f"{DISABLED}{BIAS_QUANTIZATION}"
        plain = [Candidate(graph, (*COMMON, layout, disabled)) for layout in LAYOUTS]
        if not has_biases(graph):
            return tuple(plain)
        form = self.write_form(graph, scratch)
        return (*plain, *(Candidate(form, (*COMMON, layout, f"{disabled},{FUSION}")) for layout in LAYOUTS))

    def _time_candidate(
        self, candidate: Candidate, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> float:
        """Milliseconds of GPU time per call."""
        runner = CudaRunner(candidate.graph, candidate.settings, inputs, outputs)
        arrays = make_sample_inputs(inputs, self._options.batch.optimum)
        return min(times.compute_ms for times in runner.gpu_times(arrays, CALLS))

    def _profile_engine(self, engine: Engine, folder: Path) -> list[RunNode]:
        return _profile_call(self._verify_engine(engine, folder), engine.inputs, self._options.batch.optimum)

    def _verify_engine(self, engine: Engine, folder: Path) -> Candidate:
        """The engine's graph and settings, after all checks that do not load it."""
        gpu, missing_reason = query_driver()
        if gpu is None:
            what = f"{engine.file.path} cannot run here: {missing_reason}."
            raise BackendError(what, "Run it on a machine with a GPU, or run the bundle with --backend onnxruntime.")
        reject_foreign_engine(engine, self.version, gpu, f"{platform.system()} {platform.machine()}")
        if (wrong := find_damage(folder, engine.file)) is not None:
            raise CheckFailed(f"{wrong}.", f"Build it again: deploykit compile BUNDLE --target {self.name}.")
        assert engine.build is not None, "reject_foreign_engine requires a build record"
        return Candidate(folder / engine.file.path, engine.build.settings)


LAYOUTS: Final = ("prefer_nhwc=0", "prefer_nhwc=1")
"""Channels first and last. On an H200, ResNet-50 takes 0.69 times as long in FP16 at batch 8 with channels last, and
1.13 times as long in FP32: it is measured, not assumed."""


def _profile_call(candidate: Candidate, inputs: tuple[TensorSpec, ...], batch: int) -> list[RunNode]:
    """The nodes that ran in one call."""
    with tempfile.TemporaryDirectory() as temporary:
        session = open_session(candidate.graph, candidate.settings, profile_prefix=Path(temporary) / "profile")
        session.run(None, make_sample_inputs(inputs, batch))
        return read_profile(Path(session.end_profiling()))


def _read_kernels(candidate: Candidate, inputs: tuple[TensorSpec, ...], batch: int) -> list[str] | None:
    """The names of the kernels of one call, where they can be read."""
    from deploykit.backends.onnxruntime_cuda.kernels import read_kernel_names

    session, arrays = open_session(candidate.graph, candidate.settings), make_sample_inputs(inputs, batch)
    return read_kernel_names(lambda: session.run(None, arrays))


def _keep_graph(fastest: Path, graph: Path, folder: Path) -> str:
    """Move a form that was chosen into `folder`, the graph last; returns its name there."""
    if fastest == graph:
        return str(graph.relative_to(folder))
    for name in (f"{fastest.name}.data", fastest.name):
        if fastest.with_name(name).exists():
            fastest.with_name(name).replace(folder / name)
    return fastest.name


def _list_caveats(nodes: list[RunNode], graph: Any) -> Iterator[str]:
    from deploykit.backends.onnxruntime_cuda import receipt

    if any(node.op_type == "QuantizeLinear" for node in graph):
        yield "ONNX Runtime's CUDA provider computes Q/DQ graphs in floating point, so nothing of it is INT8"
    if (fallback := receipt.describe_fallback(nodes, sessions.PROVIDER)) is not None:
        yield fallback
