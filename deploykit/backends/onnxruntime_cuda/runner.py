"""Run a session on a GPU: page-locked buffers, one stream, and a CUDA graph per batch size.

Memory is bound to the session at fixed addresses, one set per input shape, since a CUDA graph repeats its work on the
addresses that it was captured with.
"""

from __future__ import annotations

import contextlib
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
from deploykit.backends.onnxruntime import translate_errors
from deploykit.backends.onnxruntime_cuda.session import Settings, open_session
from deploykit.core.errors import BackendError, InputError
from deploykit.core.input_check import find_input_mismatch
from deploykit.core.values import Arrays, GpuTimes, TensorSpec

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    Shape = tuple[int, ...]

DEVICE: Final = "cuda"

MOST_GRAPHS: Final = 8
"""Input shapes that get buffers and a CUDA graph of their own. Any further one shares buffers and has none."""

NO_GRAPH: Final = "-1"
"""The graph ID with which a call is neither captured nor replayed."""

WARM_UP_S: Final = 0.2
"""A GPU needs this long to raise its clocks."""


class CudaRunner:
    """A session on the GPU. Thread-safe: calls of several threads take turns."""

    def __init__(
        self, graph: Path, settings: Settings, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        """BackendError where there is no GPU or the provider cannot be loaded, InputError where it rejects the file."""
        weakref.finalize(self, _release_session, vars(self))
        self.inputs = inputs
        self.outputs = outputs
        self.caveats: tuple[str, ...] = ()
        """Why no CUDA graphs are used, where that is so."""
        self._lock = threading.Lock()
        self._bindings: dict[tuple[Shape, ...], _Binding] = {}
        self._shared: tuple[tuple[Shape, ...], _Binding] | None = None
        with on_gpu(f"loading {graph.name}") as library:
            self.memory_library = library.name
            """What allocates and copies: `pycuda 2026.1` or `cuda-bindings 13.5.0`."""
            self._stream = library.create_stream()
            self._events = [library.create_event() for _ in range(4)]
            self._session, self._graphs = self._open_session(graph, settings)

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, owned by the caller. InputError where the arrays do not match the session's inputs."""
        return self.run_timed(arrays)[0]

    def run_timed(self, arrays: Arrays) -> tuple[dict[str, NDArray[Any]], CallTimings]:
        """Outputs by name and the timings of the call."""
        self._require_matching(arrays)
        with self._lock:
            return self._compute(arrays, cuda_graph=True)

    def gpu_times(self, arrays: Arrays, calls: int) -> tuple[GpuTimes, ...]:
        """Median timings of `calls` calls without a CUDA graph, then with one; only the first where a node runs on the
        CPU. InputError where the arrays do not match the session's inputs.
        """
        if calls < 1:
            raise ValueError(f"a median needs at least one call, not {calls}")
        self._require_matching(arrays)
        with self._lock:
            return tuple(self._measure(arrays, calls, graph) for graph in ((False, True) if self._graphs else (False,)))

    def run_device(self, inputs: Mapping[str, object]) -> dict[str, GpuArray]:
        """Run on arrays in GPU memory without copies to or from the host. The caller owns the returned arrays, which
        PyTorch, CuPy and pycuda read in place: `torch.from_dlpack(array)`.

        Enqueues behind the streams that write the inputs, and returns when the outputs are complete. Uses no CUDA
        graphs, which need constant addresses. InputError where the size of an output is not known before the call.
        """
        arrays = {name: read_device_array(name, array) for name, array in inputs.items()}
        self._require_matching(arrays, DeviceArray)
        with self._lock, on_gpu("computing") as library:
            shapes = self._find_shapes({name: array.shape for name, array in arrays.items()})
            if unknown := [spec.name for spec in self.outputs if spec.name not in shapes]:
                what = f"The size of the output {unknown[0]} is not known before the call."
                raise InputError(what, "Pass host arrays to run.")
            for name, array in arrays.items():
                wait_for(name, array, library, self._stream)
            aligned = {name: align_array(name, array, library, self._stream) for name, array in arrays.items()}
            blocks = {spec.name: DeviceBlock.for_tensor(library, spec, shapes[spec.name]) for spec in self.outputs}
            addresses = {name: block.address for name, block in {**aligned, **blocks}.items()}
            self._enqueue(self._bind_addresses(shapes, addresses), NO_GRAPH)
            self._stream.synchronize()
            return {
                spec.name: GpuArray(blocks[spec.name], shapes[spec.name], np.dtype(spec.dtype)) for spec in self.outputs
            }

    # ── A call ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _compute(self, arrays: Arrays, *, cuda_graph: bool) -> tuple[dict[str, NDArray[Any]], CallTimings]:
        with on_gpu("computing") as library:
            binding = self._find_binding(library, {name: array.shape for name, array in arrays.items()})
            for spec in self.inputs:
                np.copyto(binding.buffers[spec.name].host, arrays[spec.name])
            start, copied, computed, end = self._events
            start.record(self._stream)
            for spec in self.inputs:
                binding.buffers[spec.name].copy_in(library, self._stream)
            copied.record(self._stream)
            before = time.perf_counter()
            self._enqueue(binding.io, binding.graph_id if cuda_graph else NO_GRAPH)
            enqueue_ms = 1e3 * (time.perf_counter() - before)
            computed.record(self._stream)
            bound = [spec.name for spec in self.outputs if spec.name in binding.buffers]
            for name in bound:
                binding.buffers[name].copy_out(library, self._stream)
            end.record(self._stream)
            self._stream.synchronize()
            times = (start.time_till(copied), copied.time_till(computed), computed.time_till(end))
            results = dict(zip((spec.name for spec in self.outputs), binding.io.get_outputs(), strict=True))
            outputs = {
                name: binding.buffers[name].host.copy() if name in bound else results[name].numpy() for name in results
            }
            return outputs, CallTimings(*times, enqueue_ms)

    def _measure(self, arrays: Arrays, calls: int, cuda_graph: bool) -> GpuTimes:
        began = time.perf_counter()
        self._compute(arrays, cuda_graph=cuda_graph)
        while time.perf_counter() - began < WARM_UP_S:
            self._compute(arrays, cuda_graph=cuda_graph)
        timings = [self._compute(arrays, cuda_graph=cuda_graph)[1] for _ in range(calls)]
        h2d, compute, d2h, enqueue = (statistics.median(part) for part in zip(*timings, strict=True))
        return GpuTimes(cuda_graph, h2d, compute, d2h, enqueue)

    def _enqueue(self, binding: Any, graph_id: str) -> None:
        """Put the session's work on the stream, without waiting for it."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", graph_id if self._graphs else NO_GRAPH)
        with _translate_gpu_errors(), translate_errors():
            self._session.run_with_iobinding(binding, options)

    def _require_matching(self, arrays: Mapping[str, object], array_type: type = np.ndarray) -> None:
        """InputError where the arrays do not match the inputs: the session would read past their end."""
        if problem := find_input_mismatch(self.inputs, arrays, "engine", array_type=array_type):
            what = f"ONNX Runtime rejects these inputs: {problem}."
            raise InputError(what, "Compare them with the network's inputs: deploykit inspect.")

    # ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _find_binding(self, library: Any, inputs: dict[str, Shape]) -> _Binding:
        """Buffers of these input shapes, bound to the session."""
        key = tuple(inputs[spec.name] for spec in self.inputs)
        if key in self._bindings:
            return self._bindings[key]
        shapes = self._find_shapes(inputs)
        has_all = all(spec.name in shapes for spec in self.outputs)
        if has_all and len(self._bindings) < MOST_GRAPHS:
            binding = self._create_binding(library, shapes, str(len(self._bindings) + 1))
            self._bindings[key] = binding
            return binding
        if self._shared is None or self._shared[0] != key:
            self._shared = None  # freed first: both may not fit at the same time
            self._shared = (key, self._create_binding(library, shapes, NO_GRAPH))
        return self._shared[1]

    def _create_binding(self, library: Any, shapes: dict[str, Shape], graph_id: str) -> _Binding:
        buffers = {spec.name: TensorBuffer(spec) for spec in (*self.inputs, *self.outputs) if spec.name in shapes}
        for name, buffer in buffers.items():
            buffer.resize(library, shapes[name])
        addresses = {name: buffer.address for name, buffer in buffers.items()}
        return _Binding(buffers, self._bind_addresses(shapes, addresses), graph_id)

    def _bind_addresses(self, shapes: dict[str, Shape], addresses: dict[str, int]) -> onnxruntime.IOBinding:
        """Tensors at these addresses; ONNX Runtime allocates the outputs whose shape is not known."""
        binding = self._session.io_binding()
        for spec in self.inputs:
            array = (np.dtype(spec.dtype).type, shapes[spec.name], addresses[spec.name])
            binding.bind_input(spec.name, DEVICE, 0, *array)
        for spec in self.outputs:
            if spec.name in shapes:
                array = (np.dtype(spec.dtype).type, shapes[spec.name], addresses[spec.name])
                binding.bind_output(spec.name, DEVICE, 0, *array)
            else:
                binding.bind_output(spec.name, DEVICE, 0)
        return binding

    def _find_shapes(self, inputs: dict[str, Shape]) -> dict[str, Shape]:
        """The inputs' shapes, and those of the outputs whose axes are all fixed or named like an axis of an input."""
        sizes = {
            axis: size
            for spec in self.inputs
            for axis, size in zip(spec.shape, inputs[spec.name], strict=True)
            if isinstance(axis, str)
        }
        known = {}
        for spec in self.outputs:
            shape = [axis if isinstance(axis, int) else sizes.get(axis) for axis in spec.shape]
            if None not in shape:
                known[spec.name] = tuple(size for size in shape if size is not None)
        return inputs | known

    def _open_session(self, graph: Path, settings: Settings) -> tuple[onnxruntime.InferenceSession, bool]:
        """A session that captures CUDA graphs; one that does not where a node runs on the CPU, as only shows here."""
        stream = self._stream.handle
        try:
            return open_session(graph, settings, stream, cuda_graphs=True), True
        except InputError as refusal:
            session = open_session(graph, settings, stream)
            reason = "some of its nodes run on the CPU" if CAPTURE_REFUSED in refusal.what else refusal.what.rstrip(".")
            self.caveats = (f"no CUDA graph is used, kernels are launched one by one: {reason}",)
            return session, False


CAPTURE_REFUSED: Final = "cannot use the graph capture feature"
"""In ONNX Runtime's message for a graph with nodes that its CUDA provider has no kernel for."""


class _Binding(NamedTuple):
    """Memory bound to the session, for one set of input shapes."""

    buffers: dict[str, TensorBuffer]
    io: onnxruntime.IOBinding
    graph_id: str


GPU_ERRORS: Final = ("CUDA failure", "CUDNN failure", "CUBLAS failure", "CUDA error", "Failed to allocate memory")
"""In ONNX Runtime's messages: the GPU failed, and not the inputs are wrong."""


@contextlib.contextmanager
def _translate_gpu_errors() -> Any:
    try:
        yield
    except InputError as error:
        if not any(mark in error.what for mark in GPU_ERRORS):
            raise
        remedy = "Use a smaller batch, or close what else uses this GPU. If it fails again: deploykit doctor."
        raise BackendError(error.what.replace("rejects these inputs", "failed on the GPU"), remedy) from error


def _release_session(attributes: dict[str, Any]) -> None:
    """Release the session before the stream that it uses, with the CUDA context current, in any thread."""
    with contextlib.suppress(BackendError), on_gpu("releasing a session"):
        for name in ("_bindings", "_shared", "_session"):
            attributes.pop(name, None)
        attributes.clear()
