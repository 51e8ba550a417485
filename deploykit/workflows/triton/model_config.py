"""Configuration of a model in Triton: the content of its config.pbtxt as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.base import DType, ImageLayout, Value
from deploykit.core.values.networks import BatchRange

Platform = Literal["onnxruntime_onnx", "tensorrt_plan", "ensemble"]
"""Triton's platform names: a model of the ONNX Runtime or TensorRT backend, or an ensemble of other models."""
InstanceDevice = Literal["auto", "cpu", "gpu"]
"""Where instances run; `auto`: on a GPU if the server has one."""


class TensorConfig(Value, frozen=True):
    """An input or output. If the server batches, `dims` are those of one sample."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    """Sizes; −1 for a dynamic size."""
    layout: ImageLayout | None = None
    """Layout of an image input."""
    labels: str | None = None
    """File with the class names."""


class InstanceGroup(Value, frozen=True):
    """Number and location of a model's instances; on GPUs, `count` instances on each."""

    device: InstanceDevice
    count: int = 1
    dla_core: int | None = None
    """The deep-learning accelerator (DLA) that a TensorRT plan was built for."""


class WarmupInput(Value, frozen=True):
    """One input of a warm-up request; zeros if `file` is None."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    file: str | None


class WarmupRequest(Value, frozen=True):
    """Requests that an instance runs before it accepts others: `batch` requests of one sample, run as one batch."""

    name: str
    batch: int
    inputs: tuple[WarmupInput, ...]


class EnsembleStep(Value, frozen=True):
    """A model that an ensemble runs; the maps are from the model's tensor names to the ensemble's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class ModelConfig(Value, frozen=True):
    """Content of a config.pbtxt."""

    name: str
    platform: Platform
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    max_batch: int
    """Largest batch that the server forms; 0: no batching, tensors include the batch axis."""
    preferred: tuple[int, ...] = ()
    """Preferred batch sizes."""
    queue_delay_us: int = 0
    """Longest time that a request waits to be batched with others."""
    instances: InstanceGroup | None = None
    """None for an ensemble, which has no instances."""
    warmups: tuple[WarmupRequest, ...] = ()
    plans: Mapping[str, str] = {}
    """Plan files by compute capability, such as `8.6`; empty if there is one file with the platform's default name."""
    steps: tuple[EnsembleStep, ...] = ()


def select_preferred_sizes(batch: BatchRange) -> tuple[int, ...]:
    """Select the batch sizes that a graph or engine is tuned for, without 1, which would prevent batching."""
    return tuple(sorted({batch.optimum, batch.maximum} - {1}))


def format_interface(model: ModelConfig) -> str:
    """Format the interface that all versions of a model share on one line: platform, batches, inputs and outputs."""
    batches = f"batches up to {model.max_batch}" if model.max_batch else "whole batches"
    inputs, outputs = (", ".join(map(_format_tensor, tensors)) for tensors in (model.inputs, model.outputs))
    return f"{model.platform}, {batches}: {inputs} -> {outputs}"


def _format_tensor(tensor: TensorConfig) -> str:
    return f"{tensor.name!r} {tensor.dtype} {'×'.join(map(str, tensor.dims)) or 'scalar'}"
