"""Inputs and outputs of a graph in Triton's configuration."""

from __future__ import annotations

from deploykit.core.values import ImageLayout, TensorSpec
from deploykit.workflows.triton.model_config import TensorConfig


def is_batched(specs: tuple[TensorSpec, ...]) -> bool:
    """Whether the server may batch requests: the first axis of every tensor is the same dynamic one."""
    first_axes = {spec.shape[0] if spec.shape else None for spec in specs}
    return len(first_axes) == 1 and isinstance(first_axes.pop(), str)


def create_tensor_configs(
    specs: tuple[TensorSpec, ...], batched: bool, *, image: bool = False, labels: str = "", classes: int = 0
) -> tuple[TensorConfig, ...]:
    """Create Triton's description of tensors, without the batch axis if the server batches (`batched`). With `image`,
    4-d tensors state their image layout. Outputs with `classes` scores per sample name the file `labels`.
    """
    return tuple(
        TensorConfig(
            spec.name,
            spec.dtype,
            tuple(size if isinstance(size, int) else -1 for size in spec.shape[1 if batched else 0 :]),
            _port_layout(spec) if image else None,
            labels if classes and len(spec.shape) == 2 and spec.shape[1] == classes else None,
        )
        for spec in specs
    )


def _port_layout(spec: TensorSpec) -> ImageLayout | None:
    if len(spec.shape) != 4:
        return None
    return "NHWC" if spec.layout == "NHWC" else "NCHW"
