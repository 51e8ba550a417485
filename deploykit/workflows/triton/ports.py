"""Inputs and outputs of a graph as Triton's configuration states them."""

from __future__ import annotations

from deploykit.core.values import ImageLayout, TensorSpec
from deploykit.workflows.triton.served import Port


def batched(specs: tuple[TensorSpec, ...]) -> bool:
    """Whether a server may put several requests into one call: the first axis of every tensor is the same free one."""
    first = {spec.shape[0] if spec.shape else None for spec in specs}
    return len(first) == 1 and isinstance(first.pop(), str)


def ports(
    specs: tuple[TensorSpec, ...], together: bool, *, image: bool = False, labels: str = "", classes: int = 0
) -> tuple[Port, ...]:
    """Tensors as a server states them: without the first axis where it batches `together`. With `image`, those that lie
    like images say so; scores of as many `classes` as there are labels name the file with these.
    """
    return tuple(
        Port(
            spec.name,
            spec.dtype,
            tuple(size if isinstance(size, int) else -1 for size in spec.shape[1 if together else 0 :]),
            _layout(spec) if image else None,
            labels if classes and len(spec.shape) == 2 and spec.shape[1] == classes else None,
        )
        for spec in specs
    )


def _layout(spec: TensorSpec) -> ImageLayout | None:
    if len(spec.shape) != 4:
        return None
    return "NHWC" if spec.layout == "NHWC" else "NCHW"
