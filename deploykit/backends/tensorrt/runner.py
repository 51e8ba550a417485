"""Execute a plan on arrays in host memory or in GPU memory.

Written against pycuda 2026.1, cuda-bindings 13 and TensorRT's tensor API and tested with doubles of them; its authors
never ran it on a GPU. The tests that need one are skipped without it, with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from deploykit.backends.gpu.call_timings import CallTimings
from deploykit.backends.gpu.device_arrays import DeviceArray, align_array, read_device_array, wait_for
from deploykit.backends.gpu.gpu_array import GpuArray
from deploykit.backends.gpu.memory import DeviceBlock, TensorBuffer, on_gpu
from deploykit.backends.tensorrt.capture import CapturedGraph, CaptureRefused, capture_graph
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.runtime import Runtime
from deploykit.core.errors import BackendError, InputError
from deploykit.core.files import replace_file
from deploykit.core.input_check import find_input_mismatch
from deploykit.core.values import Arrays, GpuTimes, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shape = tuple[int, ...]


class Inspection(NamedTuple):
    """Results of the engine inspector and profiler."""

    document: str
    """The inspector's JSON."""
    times_us: dict[str, float]
    """Mean GPU time per call, by layer name."""


class TensorRtRunner:
    """A loaded engine. Thread-safe: each thread has its own execution context, stream and buffers.

    From the second call with the same batch size on, a thread launches a CUDA graph, unless `cuda_graph` is False.
    """

    def __init__(
        self,
        dialect: Dialect,
        plan: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        version_compatible: bool = False,
        dla_core: int | None = None,
        weights: Path | None = None,
        cuda_graph: bool = True,
        jit_file: Path | None = None,
    ) -> None:
        """BackendError where the plan does not deserialize; callers check it with `gate` first. `weights` is the graph
        to refit a plan without weights from. Kernels that TensorRT-RTX compiles on the first call with a shape are
        saved to `jit_file` and loaded from there the next time.
        """
        self.inputs = inputs
        self.outputs = outputs
        self._jit_file = jit_file
        self._jit_cache = _read_kernels(jit_file) if jit_file is not None else None
        with on_gpu(f"loading {plan.name}") as library:
            self.memory_library = library.name
            """What allocates and copies: `pycuda 2026.1` or `cuda-bindings 13.5.0`."""
            runtime = Runtime(dialect)
            self._engine = runtime.deserialize(plan.read_bytes(), version_compatible, dla_core)
            self._runtime = runtime  # assigned after the engine, which must be destroyed first
            if weights is not None:
                runtime.refit(self._engine, weights)
            _check_interface(plan, runtime, self._engine, inputs, outputs)
            self._batch = runtime.read_batch_range(self._engine)
        self._graphs = _CudaGraphUse(cuda_graph)
        self._compiled_shapes: set[tuple[Shape, ...]] = set()
        self._creation_lock = threading.Lock()  # contexts are created one at a time
        self._thread_local = threading.local()

    @property
    def caveats(self) -> tuple[str, ...]:
        """Caveats to its figures: why no CUDA graphs are used, if they were requested."""
        return self._graphs.caveats

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, owned by the caller. InputError where the arrays do not match the engine's inputs."""
        return self.run_timed(arrays)[0]

    def run_timed(self, arrays: Arrays) -> tuple[dict[str, NDArray[Any]], CallTimings]:
        """Outputs by name and the timings of the call."""
        self._require_matching(arrays)
        context = self._thread_context()
        result = context.compute(arrays)
        shapes = tuple(array.shape for array in arrays.values())
        if self._jit_file is not None and shapes not in self._compiled_shapes:
            self._compiled_shapes.add(shapes)
            self._save_kernels(context.serialize_kernels())
        return result

    def _save_kernels(self, kernels: bytes | None) -> None:
        """Save compiled kernels for later contexts and processes. An unwritable folder only costs those time."""
        if kernels and kernels != self._jit_cache and self._jit_file is not None:
            self._jit_cache = kernels
            with contextlib.suppress(InputError, OSError):
                self._jit_file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(self._jit_file, kernels, "")

    def run_device(self, inputs: Mapping[str, object]) -> dict[str, GpuArray]:
        """Run on arrays in GPU memory without copies to or from the host. The caller owns the returned arrays, which
        PyTorch, CuPy and pycuda read in place: `torch.from_dlpack(array)`.

        Accepts arrays with `__cuda_array_interface__` or `__dlpack__`: PyTorch, CuPy, pycuda, and those returned.
        Enqueues behind the streams that write the inputs, and returns when the outputs are complete. Uses no CUDA
        graphs, which need constant addresses.
        """
        arrays = {name: read_device_array(name, array) for name, array in inputs.items()}
        self._require_matching(arrays, DeviceArray)
        return self._thread_context().compute_device(arrays)

    def gpu_times(self, arrays: Arrays, calls: int) -> tuple[GpuTimes, ...]:
        """Median timings of `calls` calls without a CUDA graph, then with one; only the first where none can be
        captured. InputError where the arrays do not match the engine's inputs.

        Measured in separate contexts, one after the other. Like the rest of this module, never run on a GPU by its
        authors.
        """
        if calls < 1:
            raise ValueError(f"a median needs at least one call, not {calls}")
        self._require_matching(arrays)
        plain = self._create_context(_CudaGraphUse(wanted=False)).gpu_times(arrays, calls)
        graph = self._create_context(_CudaGraphUse(wanted=True)).gpu_times(arrays, calls)
        return (plain, graph) if graph.cuda_graph else (plain,)

    def inspect_engine(self, arrays: Arrays, calls: int) -> Inspection:
        """The engine's layers for the shapes of `arrays`, and the time of each in `calls` profiled calls.

        Measured in a separate context: with a profiler every call waits for each layer.
        """
        return self._create_context(_CudaGraphUse(wanted=False)).inspect_engine(arrays, calls)

    def _require_matching(self, arrays: Mapping[str, object], array_type: type = np.ndarray) -> None:
        """InputError where the arrays do not match the engine's inputs: TensorRT would read past their end."""
        if problem := find_input_mismatch(self.inputs, arrays, "engine", self._batch, array_type=array_type):
            raise _input_error(problem)

    def _thread_context(self) -> _ThreadContext:
        if not hasattr(self._thread_local, "context"):
            self._thread_local.context = self._create_context(self._graphs)
        context: _ThreadContext = self._thread_local.context
        return context

    def _create_context(self, graphs: _CudaGraphUse) -> _ThreadContext:
        with self._creation_lock:
            return _ThreadContext(self._runtime, self._engine, self.inputs, self.outputs, graphs, self._jit_cache)


def _read_kernels(jit_file: Path) -> bytes | None:
    """Kernels that an earlier process saved. A file that cannot be read only costs the time to compile them again."""
    try:
        return jit_file.read_bytes()
    except OSError:
        return None


def _check_interface(
    plan: Path, runtime: Runtime, engine: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """BackendError where the engine's inputs and outputs differ from its record, which determines the buffer sizes."""
    actual = {(tensor.name, tensor.is_input, tensor.dtype) for tensor in runtime.list_tensors(engine)}
    recorded = {(spec.name, spec in inputs, spec.dtype) for spec in (*inputs, *outputs)}
    if actual != recorded:
        name = min(actual ^ recorded)[0]
        what = f"The engine in {plan.name} and its record disagree about the tensor {name}."
        raise BackendError(what, "Build it again: deploykit compile BUNDLE --target NAME.")


def _input_error(problem: str) -> InputError:
    return InputError(
        f"TensorRT rejects these inputs: {problem}.", "Compare them with the network's inputs: deploykit inspect."
    )


class _CudaGraphUse:
    """Whether a runner's threads use CUDA graphs: after the first failed capture or launch, none of them does."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.caveats: tuple[str, ...] = ()

    def disable(self, reason: str) -> None:
        self.wanted = False
        self.caveats = (f"no CUDA graph is used, kernels are launched one by one: {reason}",)


class _ThreadContext:
    """One thread's execution context, stream and buffers. TensorRT's contexts are not thread-safe."""

    def __init__(
        self,
        runtime: Runtime,
        engine: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        graphs: _CudaGraphUse,
        jit_cache: bytes | None,
    ) -> None:
        weakref.finalize(self, _release_context, vars(self))
        self._engine = engine  # contexts of 8.6 do not keep their engine alive
        self._runtime = runtime
        self._graphs = graphs
        self._inputs = inputs
        self._outputs = outputs
        self._capture: CapturedGraph | None = None
        self._bound: tuple[dict[str, Shape], dict[str, int]] = ({}, {})
        self._repeated = False
        with on_gpu("creating an execution context") as library:
            self._stream = library.create_stream()
            self._context = runtime.create_context(engine, jit_cache)
            if runtime.choose_profile(self._context, self._stream.handle):
                self._stream.synchronize()
            self._buffers = {spec.name: TensorBuffer(spec) for spec in (*inputs, *outputs)}
            self._events = [library.create_event() for _ in range(4)]

    def compute(self, arrays: Arrays) -> tuple[dict[str, NDArray[Any]], CallTimings]:
        """Compute outputs in host memory from inputs in host memory."""
        with on_gpu("computing") as library:
            shapes = self._set_shapes({name: array.shape for name, array in arrays.items()})
            for name, shape in shapes.items():
                self._buffers[name].resize(library, shape)
            self._bind(shapes, {name: buffer.address for name, buffer in self._buffers.items()})
            for spec in self._inputs:
                np.copyto(self._buffers[spec.name].host, arrays[spec.name])
            self._try_capture()
            start, copied, computed, end = self._events
            start.record(self._stream)
            for spec in self._inputs:
                self._buffers[spec.name].copy_in(library, self._stream)
            copied.record(self._stream)
            before = time.perf_counter()
            self._launch()
            enqueue_ms = 1e3 * (time.perf_counter() - before)
            computed.record(self._stream)
            for spec in self._outputs:
                self._buffers[spec.name].copy_out(library, self._stream)
            end.record(self._stream)
            self._stream.synchronize()
            self._repeated = True
            outputs = {spec.name: self._buffers[spec.name].host.copy() for spec in self._outputs}
            times = (start.time_till(copied), copied.time_till(computed), computed.time_till(end))
            return outputs, CallTimings(*times, enqueue_ms)

    def compute_device(self, arrays: Mapping[str, DeviceArray]) -> dict[str, GpuArray]:
        """Compute outputs in GPU memory from inputs in GPU memory."""
        with on_gpu("computing") as library:
            shapes = self._set_shapes({name: array.shape for name, array in arrays.items()})
            for name, array in arrays.items():
                wait_for(name, array, library, self._stream)
            inputs = {name: align_array(name, array, library, self._stream) for name, array in arrays.items()}
            outputs = {spec.name: DeviceBlock.for_tensor(library, spec, shapes[spec.name]) for spec in self._outputs}
            self._bind(shapes, {name: block.address for name, block in {**inputs, **outputs}.items()})
            self._runtime.enqueue(self._context, self._stream.handle)
            self._stream.synchronize()
            return {
                spec.name: GpuArray(outputs[spec.name], shapes[spec.name], np.dtype(spec.dtype))
                for spec in self._outputs
            }

    def gpu_times(self, arrays: Arrays, calls: int) -> GpuTimes:
        """Medians of `calls` calls after the warm-up."""
        self._warm_up(arrays)
        timings = [self.compute(arrays)[1] for _ in range(calls)]
        h2d, compute, d2h, enqueue = (statistics.median(part) for part in zip(*timings, strict=True))
        return GpuTimes(self._capture is not None, h2d, compute, d2h, enqueue)

    def inspect_engine(self, arrays: Arrays, calls: int) -> Inspection:
        """Layers and their times for the shapes of `arrays`, after the warm-up."""
        self._warm_up(arrays)
        total_us: dict[str, float] = {}

        def report(layer: str, ms: float) -> None:
            total_us[layer] = total_us.get(layer, 0.0) + 1e3 * ms

        with on_gpu("inspecting the engine"):
            if calls:
                self._runtime.attach_profiler(self._context, report)
            for _ in range(calls):
                self.compute(arrays)
            document = self._runtime.inspect_layers(self._engine, self._context)
        return Inspection(document, {name: total / calls for name, total in total_us.items()})

    def _warm_up(self, arrays: Arrays) -> None:
        """Uncounted calls: at least WARMUP_CALLS, and for at least WARMUP_S."""
        start, calls = time.perf_counter(), 0
        while calls < WARMUP_CALLS or time.perf_counter() - start < WARMUP_S:
            self.compute(arrays)
            calls += 1

    def serialize_kernels(self) -> bytes | None:
        """The kernels that TensorRT-RTX compiled for this context."""
        with on_gpu("reading compiled kernels"):
            return self._runtime.serialize_kernels(self._context)

    def _set_shapes(self, inputs: dict[str, Shape]) -> dict[str, Shape]:
        """Set the input shapes where they changed, and return the shapes of all tensors."""
        shapes = self._bound[0]
        if any(shapes.get(name) != shape for name, shape in inputs.items()):
            self._drop_graph()
            for name, shape in inputs.items():
                self._runtime.set_shape(self._context, name, shape)
            shapes = inputs | {spec.name: self._runtime.read_shape(self._context, spec.name) for spec in self._outputs}
            if unknown := [name for name, shape in shapes.items() if min(shape, default=0) < 0]:
                what = f"The size of the output {unknown[0]} depends on the content of the inputs."
                remedy = "This is not supported: export a network whose output sizes follow from its input sizes."
                raise InputError(what, remedy)
        return shapes

    def _bind(self, shapes: dict[str, Shape], addresses: dict[str, int]) -> None:
        """Bind the tensors' addresses. A CUDA graph of other shapes or addresses is destroyed: it must not be launched
        after its context was used with different ones.
        """
        if self._bound != (shapes, addresses):
            self._drop_graph()
            for name, address in addresses.items():
                self._runtime.bind_tensor(self._context, name, address)
            self._bound = (shapes, addresses)

    def _drop_graph(self) -> None:
        self._bound = ({}, {})
        self._repeated = False
        if self._capture is not None:
            self._capture.destroy()
            self._capture = None

    def _try_capture(self) -> None:
        """Capture a graph where the last call had the same shapes and addresses: that call was the required warm-up,
        and alternating batch sizes are not captured every time.
        """
        if not (self._graphs.wanted and self._repeated) or self._capture is not None:
            return
        try:
            if not self._runtime.can_capture(self._context, self._stream.handle):
                raise CaptureRefused(f"{self._runtime.dialect.title} does not allow the capture of this engine")
            enqueue = functools.partial(self._runtime.enqueue, self._context, self._stream.handle)
            self._capture = capture_graph(self._stream.handle, enqueue)
        except CaptureRefused as refusal:
            self._graphs.disable(str(refusal))

    def _launch(self) -> None:
        """Launch the graph, or the kernels one by one."""
        if self._capture is not None:
            try:
                self._capture.launch(self._stream.handle)
            except CaptureRefused as refusal:
                self._graphs.disable(str(refusal))
                self._drop_graph()
            else:
                return
        self._runtime.enqueue(self._context, self._stream.handle)


WARMUP_CALLS: Final = 3
"""The first call sets the shapes, the second captures, the third launches the graph."""

WARMUP_S: Final = 0.2
"""An idle GPU needs such a time under load to raise its clocks; trtexec warms up as long. Calls take microseconds."""


def _release_context(attributes: dict[str, Any]) -> None:
    """Release a thread context's attributes with the CUDA context that their destructors need, in any thread."""
    with contextlib.suppress(BackendError), on_gpu("releasing an execution context"):
        if (graph := attributes.get("_capture")) is not None:
            graph.destroy()
        if (context := attributes.get("_context")) is not None:  # before its stream and its engine
            context.destroy()
        attributes.clear()
