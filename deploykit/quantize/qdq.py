"""INT8 as Q/DQ nodes in the graph: symmetric, zero point 0, bias left in floating point.

    weights        int8 initializers behind a DequantizeLinear, one scale per output channel: max |w| / 127
    activations    a QuantizeLinear and a DequantizeLinear per tensor that is read quantized, one scale: threshold / 127
    shared         tensors that a Concat or MaxPool connects get the largest scale among them

A bias is never quantized: TensorRT's parser refuses an INT32 bias behind DequantizeLinear, and it costs nothing to add
it in floating point.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.errors import InputError, InternalError
from deploykit.core.onnx_io import REMEDY
from deploykit.core.values import Placement
from deploykit.quantize import constants

STEPS: Final = 127
"""Codes on either side of zero. −128 is not used for weights, so that a weight and its negative are as precise."""

SMALLEST: Final = 2.0**-126
"""The smallest normal float32: kernels that flush what is smaller would divide by zero."""

BIAS_STEPS: Final = 2.0**30
"""Runtimes that add in integers round a bias to multiples of (activation's scale · weight's scale), in 32 bits."""

HALF_SMALLEST: Final = 2.0**-24
"""The smallest float16 above zero: no scale may be rounded to nothing."""

HALF_COARSE: Final = 2.0**-20
"""Where neighbouring float16 are a sixteenth of each other apart. A tensor whose every scale is smaller is none for
FP16: its scales stay exact, and typing keeps what reads it in FP32."""

HALF_LARGEST: Final = 65504.0
"""The largest finite float16."""

OUTPUT_AXIS: Final = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
"""Which axis of a weight counts the output channels; Gemm says it by transB."""


def insert(model: ir.Model, placement: Placement, thresholds: Mapping[str, float], half_scales: bool) -> None:
    """Put every pair of `placement` into `model`; `thresholds` says where each tensor with an edge is clipped.

    With `half_scales` every scale is one that float16 holds exactly, so that a graph typed FP16 afterwards quantizes
    to the same codes; but for those that are too large or too small for it, whose nodes cannot be typed.
    """
    constants.lift(model.graph)
    nodes = {node.name: node for node in model.graph}
    scales = activation_scales(placement, thresholds)
    pairs: dict[str, ir.Value] = {}
    for edge in placement.edges:
        node = nodes[edge.node]
        value = node.inputs[edge.position]
        if value is None or value.name != edge.tensor:
            raise InternalError(f"{edge.node} does not read {edge.tensor} at input {edge.position}.", REMEDY)
        if edge.tensor not in pairs:
            pairs[edge.tensor] = _pair(model.graph, value, _rounded(np.float32(scales[edge.tensor]), half_scales))
        node.replace_input_with(edge.position, pairs[edge.tensor])
    readers: dict[tuple[ir.Value | None, int], list[ir.Node]] = {}
    for layer in (nodes[name] for name in placement.layers):
        readers.setdefault((layer.inputs[1], output_axis(layer)), []).append(layer)
    for (weight, axis), layers in readers.items():
        assert weight is not None
        restored = _codes_behind(layers, weight, axis, half_scales)
        for layer in layers:
            layer.replace_input_with(1, restored)
    constants.drop_unread(model.graph)


def activation_scales(placement: Placement, thresholds: Mapping[str, float]) -> dict[str, float]:
    """Scale of each tensor with an edge; those that share one get the largest, so that none clips more than alone."""
    tensors = {edge.tensor for edge in placement.edges}
    if missing := sorted(tensors - thresholds.keys()):
        raise InternalError(f"Calibration gave no threshold for {missing[0]}.", REMEDY)
    largest = {tensor: thresholds[tensor] for tensor in tensors}
    for group in placement.shared:
        most = max(largest[tensor] for tensor in group)
        largest.update(dict.fromkeys(group, most))
    return {tensor: max((threshold or 1.0) / STEPS, SMALLEST) for tensor, threshold in largest.items()}


def weight_scales(
    weight: NDArray[np.float32], axis: int, half_scales: bool, least: NDArray[np.float64] | float = SMALLEST
) -> NDArray[np.float32]:
    """Max |w| / 127 of each output channel, but not below `least`; a channel of zeros gets the others' smallest."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float64) / STEPS
    positive = largest[largest > 0]
    scales = np.where(largest > 0, largest, positive.min() if positive.size else 1.0)
    return _rounded(np.maximum(scales, least).astype(np.float32), half_scales)


def least_scales(layer: ir.Node) -> NDArray[np.float64] | float:
    """The smallest weight scales with which 32 bits hold the layer's bias. A channel that training has switched off has
    weights near zero and its bias all the same; what its weights lose by it is a thousandth of the bias at most.
    """
    data = layer.inputs[0]
    bias = constants.constant(layer.inputs[2]) if len(layer.inputs) > 2 else None
    pair = None if data is None else data.producer()
    scale = None if pair is None else constants.constant(pair.inputs[1])
    if bias is None or scale is None or bias.ndim != 1:
        return SMALLEST
    return np.maximum(np.abs(bias.astype(np.float64)) / (BIAS_STEPS * float(scale)), SMALLEST)


def codes(values: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """round(value / scale), ties to even as QuantizeLinear rounds, between −127 and 127."""
    shape = [1] * values.ndim
    shape[axis] = -1
    divided = values / scales.reshape(shape)
    return np.asarray(np.clip(np.rint(divided), -STEPS, STEPS), np.int8)


def _rounded(scales: NDArray[np.float32] | np.float32, half: bool) -> NDArray[np.float32]:
    """Scales as they are, or the next float16 that is not smaller: rounded down, the largest value would clip."""
    exact = np.asarray(scales, np.float32)
    if not half or exact.max() < HALF_COARSE:
        return exact
    near = np.clip(exact, HALF_SMALLEST, HALF_LARGEST).astype(np.float16)
    up = np.where(near.astype(np.float32) < exact, np.nextafter(near, np.float16(HALF_LARGEST)), near)
    return np.where(exact > HALF_LARGEST, exact, up.astype(np.float32))


def _pair(graph: ir.Graph, value: ir.Value, scale: NDArray[np.float32]) -> ir.Value:
    """A Q and a DQ behind whatever writes `value`; what the DQ gives."""
    name = value.name
    scale_value = constants.add(graph, scale, f"{name}/scale")
    zero = constants.add(graph, np.zeros((), np.int8), f"{name}/zero_point")
    quantize = _node("QuantizeLinear", [value, scale_value, zero], f"{name}/QuantizeLinear", ir.DataType.INT8, value)
    restore = _node(
        "DequantizeLinear",
        [quantize.outputs[0], scale_value, zero],
        f"{name}/DequantizeLinear",
        ir.DataType.FLOAT,
        value,
    )
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, restore])
    else:
        graph.insert_after(producer, [quantize, restore])
        for node in (quantize, restore):
            node.metadata_props.update(producer.metadata_props)
    return restore.outputs[0]


def _codes_behind(layers: list[ir.Node], weight: ir.Value, axis: int, half_scales: bool) -> ir.Value:
    """The codes of the weight that these layers share, behind a DequantizeLinear; what that gives."""
    array, graph = constants.constant(weight), layers[0].graph
    assert array is not None
    assert graph is not None
    if not np.isfinite(array).all():
        raise InputError(f"The weight {weight.name} holds NaN or infinity.", "Check the checkpoint.")
    least = functools.reduce(np.maximum, map(least_scales, layers))
    scales = weight_scales(array, axis, half_scales, least)
    name = weight.name if f"{weight.name}/codes" not in graph.initializers else f"{weight.name}/{axis}"
    inputs = [
        constants.add(graph, codes(array, scales, axis), f"{name}/codes"),
        constants.add(graph, scales, f"{name}/scale"),
        constants.add(graph, np.zeros(scales.shape, np.int8), f"{name}/zero_point"),
    ]
    node = _node("DequantizeLinear", inputs, f"{name}/DequantizeLinear", ir.DataType.FLOAT, weight, axis)
    node.metadata_props.update(layers[0].metadata_props)
    graph.insert_before(layers[0], node)
    return node.outputs[0]


def output_axis(layer: ir.Node) -> int:
    """The axis of a layer's weight that counts its output channels."""
    if layer.op_type == "Gemm":
        return 0 if layer.attributes.get_int("transB", 0) else 1
    return OUTPUT_AXIS[layer.op_type]


def _node(
    op_type: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, like: ir.Value, axis: int | None = None
) -> ir.Node:
    node = ir.node(op_type, inputs, {} if axis is None else {"axis": axis}, name=name)
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, like.shape, ir.TensorType(dtype)
    return node
