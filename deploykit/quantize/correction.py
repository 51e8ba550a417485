"""Bias correction: rounding a layer's weights shifts the mean of what it computes; its bias takes the shift back.

The output's mean is W·E[x] + b, so that weights which round to W + ε shift it by ε·E[x]: known from the rounding and
the mean of the layer's input alone (Nagel et al. 2019, arXiv 1906.04721, §4.2, with the input's mean measured).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.values import Placement
from deploykit.quantize import qdq

BIASED = frozenset({"Conv", "Gemm"})
"""Layers whose bias is added per output channel, and whose input channels are axis 1."""


def correct(
    model: ir.Model, placement: Placement, means: Mapping[str, tuple[float, ...]], half_scales: bool
) -> tuple[str, ...]:
    """Change the biases of the layers that will be quantized, or give them one; the names of those changed."""
    nodes = {node.name: node for node in model.graph}
    changed = []
    for name in placement.layers:
        layer = nodes[name]
        data, weight = layer.inputs[0], layer.inputs[1]
        mean = means.get(data.name or "") if data is not None else None
        tensor = ir.convenience.get_const_tensor(weight) if weight is not None else None
        if layer.op_type in BIASED and mean is not None and tensor is not None:
            moved = shift(tensor.numpy(), np.asarray(mean), qdq.output_axis(layer), _groups(layer), half_scales)
            if moved is not None and _add(layer, -moved):
                changed.append(name)
    return tuple(changed)


def shift(
    weight: NDArray[np.float32], mean: NDArray[np.float64], axis: int, groups: int, half_scales: bool
) -> NDArray[np.float64] | None:
    """What rounding adds to the mean of each output channel; None where `mean` is not one per input channel.

    Padding is left out of account: at the border of an image the mean of what a kernel sees is nearer to zero.
    """
    scales = qdq.weight_scales(weight, axis, half_scales)
    spread = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    error = qdq.codes(weight, scales, axis).astype(np.float64) * spread - weight
    rows = np.moveaxis(error, axis, 0).reshape(weight.shape[axis], weight.shape[1 - axis], -1).sum(axis=2)
    inputs = rows.shape[1]
    if mean.size != inputs * groups:
        return None
    per_group = mean.reshape(groups, inputs)
    return np.concatenate([part @ seen for part, seen in zip(np.split(rows, groups), per_group, strict=True)])


def _groups(layer: ir.Node) -> int:
    return layer.attributes.get_int("group", 1)


def _add(layer: ir.Node, change: NDArray[np.float64]) -> bool:
    """Whether the layer's bias could take the change: one that is computed, or broadcast, cannot."""
    held = layer.inputs[2] if len(layer.inputs) > 2 else None
    bias: NDArray[np.float64] = np.zeros(change.shape)
    if held is not None:
        tensor = ir.convenience.get_const_tensor(held)
        if tensor is None or tuple(tensor.shape) != change.shape:
            return False
        bias = tensor.numpy().astype(np.float64)
    assert layer.graph is not None
    name = f"{layer.name}/corrected_bias"
    array = (bias + change).astype(np.float32)
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    layer.graph.register_initializer(value)
    if held is None:
        layer.resize_inputs(3)
    layer.replace_input_with(2, value)
    return True
