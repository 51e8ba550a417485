"""A plan run with PyTorch's memory, for machines that lack pycuda, which deploykit's own runner needs and which has to
be compiled. No CUDA graphs here: the launches of small batches take their full time.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from deploykit.core.values import TensorSpec

STATEMENT: Final = "pycuda is missing: run with PyTorch's memory and without CUDA graphs, not by deploykit's runner"


class Timings(NamedTuple):
    """One call, by CUDA events on its stream; as deploykit's runner tells them."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float


class PlanRunner:
    """An engine with one context on one stream; buffers stay as long as the batch does."""

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
            raise RuntimeError(f"{plan.name} does not deserialize; the log says why")
        self._inspector = self._engine.create_engine_inspector()
        self._json = trt.LayerInformationFormat.JSON
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        self._marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._host: dict[str, Any] = {}
        self._there: dict[str, Any] = {}

    def run(self, arrays: Any) -> dict[str, Any]:
        return self.timed(arrays)[0]

    def timed(self, arrays: Any) -> tuple[dict[str, Any], Timings]:
        """The outputs, and where the time went."""
        import torch

        self._fit({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            self._host[name].numpy()[...] = array
        began, copied, computed, ended = self._marks
        with torch.cuda.stream(self._stream):
            began.record()
            for spec in self.inputs:
                self._there[spec.name].copy_(self._host[spec.name], non_blocking=True)
            copied.record()
            start = time.perf_counter()
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError("the engine failed while computing; the log says why")
            enqueue = time.perf_counter() - start
            computed.record()
            for spec in self.outputs:
                self._host[spec.name].copy_(self._there[spec.name], non_blocking=True)
            ended.record()
        self._stream.synchronize()
        times = (began.elapsed_time(copied), copied.elapsed_time(computed), computed.elapsed_time(ended))
        return {spec.name: self._host[spec.name].numpy().copy() for spec in self.outputs}, Timings(
            *times, 1e3 * enqueue
        )

    def inspected(self) -> str:
        """The inspector's JSON document of the engine's layers."""
        return str(self._inspector.get_engine_information(self._json))

    def _fit(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Buffers of these sizes on both sides, bound to the context."""
        import torch

        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise RuntimeError(f"the engine refuses {name} of {shape}")
        for spec in (*self.inputs, *self.outputs):
            shape, dtype = tuple(self._context.get_tensor_shape(spec.name)), getattr(torch, spec.dtype)
            self._host[spec.name] = torch.empty(shape, dtype=dtype, pin_memory=self._device == "cuda")
            self._there[spec.name] = torch.empty(shape, dtype=dtype, device=self._device)
            self._context.set_tensor_address(spec.name, self._there[spec.name].data_ptr())
        torch.cuda.synchronize()
        self._shapes = dict(shapes)
