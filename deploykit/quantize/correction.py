"""Bias correction: rounding a layer's weights shifts the mean of its output; subtract the shift from its bias.

The output's mean is W·E[x] + b, so weights that round to W + ε shift it by ε·E[x], which follows from the rounding and
the mean of the layer's input alone (Nagel et al. 2019, arXiv 1906.04721, §4.2, with the input's mean measured).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.graph_edit import add_initializer, read_constant
from deploykit.core.values import Placement
from deploykit.quantize import qdq

BIASED = frozenset({"Conv", "Gemm"})
"""Layers whose bias is added per output channel, and whose input channels are axis 1."""


def correct_biases(
    model: ir.Model, placement: Placement, means: Mapping[str, tuple[float, ...]], half_scales: bool
) -> tuple[str, ...]:
    """Correct the biases of the layers to be quantized, or add one; return the names of the layers changed."""
    nodes = {node.name: node for node in model.graph}
    changed = []
    for name in placement.layers:
        layer = nodes[name]
        data, weight = layer.inputs[0], layer.inputs[1]
        mean = means.get(data.name or "") if data is not None else None
        array = read_constant(weight)
        if layer.op_type in BIASED and mean is not None and array is not None:
            axis, groups = qdq.output_channel_axis(layer), layer.attributes.get_int("group", 1)
            shift = compute_mean_shift(array, np.asarray(mean), axis, groups, half_scales)
            if shift is not None and _add_to_bias(layer, -shift):
                changed.append(name)
    return tuple(changed)


def compute_mean_shift(
    weight: NDArray[np.float32], mean: NDArray[np.float64], axis: int, groups: int, half_scales: bool
) -> NDArray[np.float64] | None:
    """What rounding adds to the mean of each output channel; None where `mean` does not have one per input channel.

    Padding is neglected: at the border of an image the mean of the values under a kernel is nearer to zero.
    """
    # weight: (out_channels, in_channels / groups, kH, kW) for Conv; (out, in) or, with axis 1, (in, out) for Gemm
    # mean: (in_channels,)
    scales = qdq.weight_scales(weight, axis, half_scales)  # (out_channels,)
    spread = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    error = qdq.quantize_weight(weight, scales, axis).astype(np.float64) * spread - weight
    out_channels, group_inputs = weight.shape[axis], weight.shape[1 - axis]
    error = np.moveaxis(error, axis, 0).reshape(out_channels, group_inputs, -1).sum(axis=2)
    if mean.size != group_inputs * groups:
        return None
    errors = np.split(error, groups)  # each (out_channels / groups, in_channels / groups)
    means = mean.reshape(groups, group_inputs)
    return np.concatenate([part @ inputs for part, inputs in zip(errors, means, strict=True)])


def _add_to_bias(layer: ir.Node, change: NDArray[np.float64]) -> bool:
    """Add `change`, shape (out_channels,), to the layer's bias; False where the bias is computed or broadcast."""
    current = layer.inputs[2] if len(layer.inputs) > 2 else None
    bias: NDArray[np.float64] = np.zeros(change.shape)
    if current is not None:
        constant = read_constant(current)
        if constant is None or constant.shape != change.shape:
            return False
        bias = constant.astype(np.float64)
    assert layer.graph is not None
    value = add_initializer(layer.graph, f"{layer.name}/corrected_bias", (bias + change).astype(np.float32))
    if current is None:
        layer.resize_inputs(3)
    layer.replace_input_with(2, value)
    return True
