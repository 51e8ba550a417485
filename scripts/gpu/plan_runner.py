"""Runs a TensorRT plan with PyTorch's memory, streams and events: independent of deploykit's own runner, to compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from deploykit.core.values import TensorSpec


class Timings(NamedTuple):
    """One call, by CUDA events on its stream; the same fields as those of deploykit's runner."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float


class PlanRunner:
    """An engine with one context on one stream; buffers are reused until the batch size changes."""

    def __init__(
        self,
        trt: Any,
        plan: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        device: str = "cuda",
    ) -> None:
        import torch

        self.inputs, self.outputs, self._device = inputs, outputs, device
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"{plan.name} cannot be deserialized: see the log")
        self._context = self._engine.create_execution_context()
        self.stream = torch.cuda.Stream()
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._host_buffers: dict[str, Any] = {}
        self._device_buffers: dict[str, Any] = {}

    def run(self, arrays: Any) -> dict[str, Any]:
        return self.run_timed(arrays)[0]

    def run_timed(self, arrays: Any) -> tuple[dict[str, Any], Timings]:
        """The outputs, and the time of each part."""
        import torch

        self._resize_buffers({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            self._host_buffers[name].numpy()[...] = array
        began, copied, computed, ended = self._events
        with torch.cuda.stream(self.stream):
            began.record()
            for spec in self.inputs:
                self._device_buffers[spec.name].copy_(self._host_buffers[spec.name], non_blocking=True)
            copied.record()
            start = time.perf_counter()
            self.launch()
            enqueue = time.perf_counter() - start
            computed.record()
            for spec in self.outputs:
                self._host_buffers[spec.name].copy_(self._device_buffers[spec.name], non_blocking=True)
            ended.record()
        self.stream.synchronize()
        times = (began.elapsed_time(copied), copied.elapsed_time(computed), computed.elapsed_time(ended))
        return {spec.name: self._host_buffers[spec.name].numpy().copy() for spec in self.outputs}, Timings(
            *times, 1e3 * enqueue
        )

    def launch(self) -> None:
        """Put the engine's kernels on the stream, on the data that the buffers hold; does not wait for them."""
        if not self._context.execute_async_v3(self.stream.cuda_stream):
            raise RuntimeError("the engine failed while computing: see the log")

    def capture(self) -> Any:
        """The launch as a CUDA graph of PyTorch's; buffers keep their addresses as long as the batch size stays."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.launch()
        return graph

    def _resize_buffers(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Allocate host and device buffers of these sizes and bind them to the context."""
        import torch

        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise RuntimeError(f"the engine rejects {name} with shape {shape}")
        for spec in (*self.inputs, *self.outputs):
            shape, dtype = tuple(self._context.get_tensor_shape(spec.name)), getattr(torch, spec.dtype)
            self._host_buffers[spec.name] = torch.empty(shape, dtype=dtype, pin_memory=self._device == "cuda")
            self._device_buffers[spec.name] = torch.empty(shape, dtype=dtype, device=self._device)
            self._context.set_tensor_address(spec.name, self._device_buffers[spec.name].data_ptr())
        torch.cuda.synchronize()
        self._shapes = dict(shapes)
