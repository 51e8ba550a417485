"""A plan executed: arrays in, arrays out, on the host or where they already lie on the GPU.

Written against pycuda 2026.1 and TensorRT's tensor API, and tried with doubles of both: this was never run on a GPU
by those who wrote it. The tests that need one skip where there is none and say so.
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

from deploykit.backends.tensorrt.capture import Capture, CaptureRefused, capture
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.memory import Block, Buffer, DeviceArray, aligned, device_array, on_gpu, wait_for
from deploykit.backends.tensorrt.running import Running
from deploykit.core.errors import BackendError, InputError
from deploykit.core.files import replace_file
from deploykit.core.values import Arrays, BatchRange, GpuTimes, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shape = tuple[int, ...]


class Timings(NamedTuple):
    """One call, by CUDA events on its stream; none of them counts what the host does before and after."""

    h2d_ms: float
    """Inputs, from page-locked memory to the GPU's."""
    compute_ms: float
    d2h_ms: float
    """Outputs, back into page-locked memory."""
    enqueue_ms: float
    """Host time that the launch took; above compute_ms, the processor is what limits."""


class Inspection(NamedTuple):
    """What an engine's own inspector and profiler tell."""

    document: str
    """JSON, in the library's words."""
    times_us: dict[str, float]
    """Mean GPU time of one call, by the layer's name."""


class TensorRtRunner:
    """An engine ready to compute, from several threads too: each gets a context, a stream and buffers of its own.

    From the second call of one batch size on, a thread launches a CUDA graph of it, unless `cuda_graph` is False.
    """

    def __init__(
        self,
        dialect: Dialect,
        plan: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        version_compatible: bool = False,
        weights: Path | None = None,
        cuda_graph: bool = True,
        jit_file: Path | None = None,
    ) -> None:
        """BackendError where the plan does not deserialize here; the caller has asked the gate before. `weights` is the
        graph that a plan without weights gets its own from. What TensorRT-RTX compiles while it first runs is kept in
        `jit_file`, and taken from there the next time.
        """
        self.inputs = inputs
        self.outputs = outputs
        self._jit_file = jit_file
        self._jit_cache = jit_file.read_bytes() if jit_file is not None and jit_file.is_file() else None
        with on_gpu(f"loading {plan.name}"):
            running = Running(dialect)
            self._engine = running.deserialize(plan.read_bytes(), version_compatible)
            self._running = running  # behind the engine, which must go first when the runner goes
            if weights is not None:
                running.refit(self._engine, weights)
            _promised(plan, running, self._engine, inputs, outputs)
            self._batch = running.batch(self._engine)
        self._graphs = _Graphs(cuda_graph)
        self._making = threading.Lock()  # contexts are made one at a time
        self._of_thread = threading.local()

    @property
    def statements(self) -> tuple[str, ...]:
        """What a reader of its figures must know: why there are no CUDA graphs, if they were wanted."""
        return self._graphs.statements

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, the caller's to keep. InputError where the arrays do not fit the engine."""
        return self.timed(arrays)[0]

    def timed(self, arrays: Arrays) -> tuple[dict[str, NDArray[Any]], Timings]:
        """The outputs, and where the time went."""
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise _refusal(f"{name} is no array")
        self._check({name: (array.dtype, array.shape) for name, array in arrays.items()})
        lane = self._lane()
        answer = lane.compute(arrays)
        if self._jit_file is not None and self._jit_cache is None:
            self._keep(lane.compiled())
        return answer

    def _keep(self, compiled: bytes | None) -> None:
        """For the next process; a folder that cannot be written costs time there, and nothing here."""
        self._jit_cache = compiled or b""
        if compiled and self._jit_file is not None:
            with contextlib.suppress(InputError, OSError):
                self._jit_file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(self._jit_file, compiled, "")

    def run_device(self, inputs: Mapping[str, object]) -> dict[str, Any]:
        """Arrays on the GPU in, pycuda's GPUArrays out, the caller's to keep, and nothing copied over the bus.

        Takes what has `__cuda_array_interface__` or `__dlpack__`: PyTorch, CuPy, pycuda. Waits for whoever writes the
        inputs, and returns when the outputs are there. It makes no CUDA graphs: those need addresses that stay.
        """
        given = {name: device_array(name, array) for name, array in inputs.items()}
        self._check({name: (array.dtype, array.shape) for name, array in given.items()})
        return self._lane().compute_device(given)

    def gpu_times(self, arrays: Arrays, calls: int) -> tuple[GpuTimes, ...]:
        """Where the time of a call with these arrays goes, as medians of so many: without a CUDA graph, then with one;
        without alone where none can be captured. InputError where the arrays do not fit the engine.

        Contexts of their own compute it, one after the other. Like all here, this was never run on a GPU by those who
        wrote it.
        """
        if calls < 1:
            raise ValueError(f"a median is of at least one call, not of {calls}")
        self._check({name: (array.dtype, array.shape) for name, array in arrays.items()})
        plain = self._made(_Graphs(wanted=False)).gpu_times(arrays, calls)
        graph = self._made(_Graphs(wanted=True)).gpu_times(arrays, calls)
        return (plain, graph) if graph.cuda_graph else (plain,)

    def inspected(self, arrays: Arrays, calls: int) -> Inspection:
        """The engine's layers at the sizes of `arrays`, and how long each took in that many profiled calls.

        A context of its own computes them: a profile makes every call wait for each layer.
        """
        return self._made(_Graphs(wanted=False)).inspected(arrays, calls)

    def _check(self, given: Mapping[str, tuple[np.dtype[Any], Shape]]) -> None:
        if problem := _misfit(self.inputs, given, self._batch):
            raise _refusal(problem)

    def _lane(self) -> _Lane:
        if not hasattr(self._of_thread, "lane"):
            self._of_thread.lane = self._made(self._graphs)
        lane: _Lane = self._of_thread.lane
        return lane

    def _made(self, graphs: _Graphs) -> _Lane:
        with self._making:
            return _Lane(self._running, self._engine, self.inputs, self.outputs, graphs, self._jit_cache)


def _promised(
    plan: Path, running: Running, engine: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """BackendError where the engine's inputs and outputs are not those of its record: buffers are sized by them."""
    found = {(tensor.name, tensor.is_input, tensor.dtype) for tensor in running.tensors(engine)}
    promised = {(spec.name, spec in inputs, spec.dtype) for spec in (*inputs, *outputs)}
    if found != promised:
        name = min(found ^ promised)[0]
        told = f"The engine in {plan.name} and its record disagree about the tensor {name}."
        raise BackendError(told, "Build it again: deploykit compile BUNDLE --target NAME.")


def _misfit(
    specs: tuple[TensorSpec, ...], given: Mapping[str, tuple[np.dtype[Any], Shape]], batch: BatchRange | None
) -> str | None:
    """Why the arrays do not fit, as half a sentence: TensorRT would read past their end. None: they do."""
    names = [spec.name for spec in specs]
    if extra := [name for name in given if name not in names]:
        return f"the engine has no input {extra[0]}"
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in given:
            return f"the input {spec.name} is missing"
        dtype, shape = given[spec.name]
        if dtype != spec.dtype:
            return f"{spec.name} is {dtype}, not {spec.dtype}"
        pairs = list(zip(shape, spec.shape, strict=False))
        if len(shape) != len(spec.shape) or any(isinstance(s, int) and s != size for size, s in pairs):
            return f"{spec.name} is {'×'.join(map(str, shape))}, not {'×'.join(map(str, spec.shape))}"
        for size, axis in pairs:
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                return f"{spec.name} has a {axis} of {size}, another input one of {sizes[axis]}"
        free = batch is not None and isinstance(next(iter(spec.shape), None), str)
        if batch is not None and free and not batch.minimum <= shape[0] <= batch.maximum:
            return f"{spec.name} is a batch of {shape[0]}, and the engine takes {batch.minimum} to {batch.maximum}"
    return None


def _refusal(problem: str) -> InputError:
    return InputError(f"TensorRT refuses these inputs: {problem}.", "Compare them with inspect.")


class _Graphs:
    """Whether a runner's threads still try CUDA graphs: after the first refusal they all leave it."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.statements: tuple[str, ...] = ()

    def refuse(self, reason: str) -> None:
        self.wanted = False
        self.statements = (f"no CUDA graph is used, each kernel is launched by itself: {reason}",)


class _Lane:
    """What one thread computes with: a context, a stream and buffers of its own. TensorRT's contexts bear one user."""

    def __init__(
        self,
        running: Running,
        engine: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        graphs: _Graphs,
        jit_cache: bytes | None,
    ) -> None:
        weakref.finalize(self, _release, vars(self))
        self._engine = engine  # contexts of 8.6 do not hold theirs alive
        self._running = running
        self._graphs = graphs
        self._inputs = inputs
        self._outputs = outputs
        self._capture: Capture | None = None
        self._settled: tuple[dict[str, Shape], dict[str, int]] = ({}, {})
        self._repeated = False
        with on_gpu("making an execution context") as cuda:
            self._stream = cuda.Stream(NON_BLOCKING)
            self._context = running.context(engine, jit_cache)
            if self._context.handle.active_optimization_profile < 0:  # before 10, one context alone has it by default
                self._context.handle.set_optimization_profile_async(0, self._stream.handle)
                self._stream.synchronize()
            self._buffers = {spec.name: Buffer(spec) for spec in (*inputs, *outputs)}
            self._marks = [cuda.Event() for _ in range(4)]

    def compute(self, arrays: Arrays) -> tuple[dict[str, NDArray[Any]], Timings]:
        """Host arrays in, host arrays out."""
        with on_gpu("computing") as cuda:
            shapes = self._shaped({name: array.shape for name, array in arrays.items()})
            for name, shape in shapes.items():
                self._buffers[name].fit(shape)
            self._settle(shapes, {name: buffer.address for name, buffer in self._buffers.items()})
            for spec in self._inputs:
                np.copyto(self._buffers[spec.name].host, arrays[spec.name])
            self._try_capture()
            began, copied, computed, ended = self._marks
            began.record(self._stream)
            for spec in self._inputs:
                buffer = self._buffers[spec.name]
                cuda.memcpy_htod_async(buffer.address, buffer.host, self._stream)
            copied.record(self._stream)
            before = time.perf_counter()
            self._launch()
            enqueue_ms = 1e3 * (time.perf_counter() - before)
            computed.record(self._stream)
            for spec in self._outputs:
                buffer = self._buffers[spec.name]
                cuda.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)
            ended.record(self._stream)
            self._stream.synchronize()
            self._repeated = True
            outputs = {spec.name: self._buffers[spec.name].host.copy() for spec in self._outputs}
            times = (began.time_till(copied), copied.time_till(computed), computed.time_till(ended))
            return outputs, Timings(*times, enqueue_ms)

    def compute_device(self, given: Mapping[str, DeviceArray]) -> dict[str, Any]:
        """Device arrays in, device arrays out."""
        with on_gpu("computing"):
            from pycuda.gpuarray import GPUArray

            shapes = self._shaped({name: array.shape for name, array in given.items()})
            for array in given.values():
                wait_for(array.stream, self._stream)
            ours = {name: aligned(name, array, self._stream) for name, array in given.items()}
            made = {spec.name: Block.of(spec, shapes[spec.name]) for spec in self._outputs}
            self._settle(shapes, {name: block.address for name, block in {**ours, **made}.items()})
            self._running.enqueue(self._context, self._stream.handle)
            self._stream.synchronize()
            return {
                spec.name: GPUArray(shapes[spec.name], np.dtype(spec.dtype), base=block, gpudata=block.address)
                for spec, block in zip(self._outputs, made.values(), strict=True)
            }

    def gpu_times(self, arrays: Arrays, calls: int) -> GpuTimes:
        """Medians, behind calls that do not count: the first settles sizes, the next captures, one more launches."""
        for _ in range(NOT_COUNTED):
            self.compute(arrays)
        timings = [self.compute(arrays)[1] for _ in range(calls)]
        h2d, compute, d2h, enqueue = (statistics.median(each) for each in zip(*timings, strict=True))
        return GpuTimes(self._capture is not None, h2d, compute, d2h, enqueue)

    def inspected(self, arrays: Arrays, calls: int) -> Inspection:
        """Layers and their times, at the sizes of `arrays`; the first call warms up and is not counted."""
        self.compute(arrays)
        spent: dict[str, float] = {}

        def report(layer: str, ms: float) -> None:
            spent[layer] = spent.get(layer, 0.0) + 1e3 * ms

        with on_gpu("inspecting the engine"):
            if calls:
                self._running.profile(self._context, report)
            for _ in range(calls):
                self.compute(arrays)
            document = self._running.inspect(self._engine, self._context)
        return Inspection(document, {name: total / calls for name, total in spent.items()})

    def compiled(self) -> bytes | None:
        """TensorRT-RTX's compilations for this lane's context."""
        with on_gpu("reading compiled kernels"):
            return self._running.compiled(self._context)

    def _shaped(self, inputs: dict[str, Shape]) -> dict[str, Shape]:
        """Every tensor's shape once the inputs have these, which the context is told where they are new."""
        known = self._settled[0]
        if any(known.get(name) != shape for name, shape in inputs.items()):
            self._forget()
            for name, shape in inputs.items():
                self._running.set_shape(self._context, name, shape)
            known = inputs | {spec.name: self._running.shape(self._context, spec.name) for spec in self._outputs}
            if unknown := [name for name, shape in known.items() if min(shape, default=0) < 0]:
                told = f"The size of {unknown[0]} depends on the content of the inputs."
                raise InputError(
                    told, "Such networks are not served: export one whose output sizes follow its inputs'."
                )
        return known

    def _settle(self, shapes: dict[str, Shape], addresses: dict[str, int]) -> None:
        """Bind the tensors where they lie now. A graph of other shapes or addresses is thrown away: it may not be
        launched once its context has served others.
        """
        if self._settled != (shapes, addresses):
            self._forget()
            for name, address in addresses.items():
                self._running.bind(self._context, name, address)
            self._settled = (shapes, addresses)

    def _forget(self) -> None:
        self._settled = ({}, {})
        self._repeated = False
        if self._capture is not None:
            self._capture.destroy()
            self._capture = None

    def _try_capture(self) -> None:
        """A graph, where the last call was the same one: it was the warm-up that captures need, and batch sizes that
        take turns are not captured anew each time.
        """
        if not (self._graphs.wanted and self._repeated) or self._capture is not None:
            return
        try:
            if not self._running.capturable(self._context, self._stream.handle):
                raise CaptureRefused(f"{self._running.dialect.title} says that this engine cannot be captured")
            enqueue = functools.partial(self._running.enqueue, self._context, self._stream.handle)
            self._capture = capture(self._stream.handle, enqueue)
        except CaptureRefused as refusal:
            self._graphs.refuse(str(refusal))

    def _launch(self) -> None:
        """The graph, or else the kernels one by one."""
        if self._capture is not None:
            try:
                self._capture.launch(self._stream.handle)
            except CaptureRefused as refusal:
                self._graphs.refuse(str(refusal))
                self._forget()
            else:
                return
        self._running.enqueue(self._context, self._stream.handle)


NOT_COUNTED: Final = 3

NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: work of other libraries on the default stream neither waits nor breaks a capture."""


def _release(held: dict[str, Any]) -> None:
    """Take apart what a lane held, under the context that pycuda's destructors need, in whichever thread dropped it."""
    with contextlib.suppress(BackendError), on_gpu("releasing an execution context"):
        if (graph := held.get("_capture")) is not None:
            graph.destroy()
        held.pop("_context", None)  # before the stream that it worked on, and its engine
        held.clear()
