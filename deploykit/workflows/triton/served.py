"""A model as Triton serves it: the values that its config.pbtxt says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.networks import BatchRange
from deploykit.core.values.words import DType, ImageLayout, Value

Platform = Literal["onnxruntime_onnx", "tensorrt_plan", "ensemble"]
"""Triton's words for a model that its ONNX Runtime or TensorRT backend runs, and for one that only calls others."""
Device = Literal["auto", "cpu", "gpu"]
"""Where instances run; `auto`: on a GPU where the server sees one."""


class Port(Value, frozen=True):
    """An input or output. Where the server batches, `dims` are those of one sample."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    """Sizes, −1 where a size is chosen by the request."""
    layout: ImageLayout | None = None
    """Of an image."""
    labels: str | None = None
    """The file with the names of its classes."""


class Instances(Value, frozen=True):
    """How many copies of a model run, and where; on GPUs, that many on each."""

    device: Device
    count: int = 1
    dla_core: int | None = None
    """The deep-learning accelerator that a TensorRT plan was built for."""


class WarmupInput(Value, frozen=True):
    """One input of a warm-up request; None for its `file`: zeros."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    file: str | None


class Warmup(Value, frozen=True):
    """Requests that an instance answers before it takes others: `batch` of one sample each, run at once."""

    name: str
    batch: int
    inputs: tuple[WarmupInput, ...]


class Step(Value, frozen=True):
    """A model that an ensemble calls; the maps go from its own tensor names to the ensemble's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Model(Value, frozen=True):
    """All that one config.pbtxt says."""

    name: str
    platform: Platform
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch: int
    """The most samples that the server puts into one call; 0: tensors are passed as they come, batch axis included."""
    preferred: tuple[int, ...] = ()
    """Batch sizes that the server forms first."""
    queue_delay_us: int = 0
    """How long a request may wait for others to be batched with."""
    instances: Instances | None = None
    """None for an ensemble, which runs nothing itself."""
    warmups: tuple[Warmup, ...] = ()
    plans: Mapping[str, str] = {}
    """Files by compute capability, such as `8.6`, where a model has one for each; else it has the platform's name."""
    steps: tuple[Step, ...] = ()


def preferred(batch: BatchRange) -> tuple[int, ...]:
    """The sizes that a graph or engine is best served with. One is none: two requests would never be joined for it."""
    return tuple(sorted({batch.optimum, batch.maximum} - {1}))


def interface(model: Model) -> str:
    """What all versions of a model share, on one line: platform, batches, inputs and outputs."""
    batches = f"batches up to {model.max_batch}" if model.max_batch else "whole batches"
    inputs, outputs = (", ".join(map(_port, ports)) for ports in (model.inputs, model.outputs))
    return f"{model.platform}, {batches}: {inputs} -> {outputs}"


def _port(port: Port) -> str:
    return f"{port.name!r} {port.dtype} {'×'.join(map(str, port.dims)) or 'scalar'}"
