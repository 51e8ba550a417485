"""INT8 as Q/DQ nodes in the graph: symmetric, zero point 0, bias left in floating point.

    weights        int8 initializers with a DequantizeLinear, one scale per output channel: max |w| / 127; one for all
                   of a ConvTranspose
    activations    a QuantizeLinear and a DequantizeLinear per quantized tensor, one scale: threshold / 127
    shared         tensors that a Concat or MaxPool connects get the largest scale among them

A bias is never quantized: TensorRT's parser refuses an INT32 bias with a DequantizeLinear, and adding it in floating
point costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.errors import InputError, InternalError
from deploykit.core.graph_edit import add_initializer, drop_unused_initializers, lift_constants, read_constant
from deploykit.core.onnx_io import REMEDY
from deploykit.core.values import Placement

STEPS: Final = 127
"""Codes on either side of zero. −128 is not used for weights, so that w and −w are equally precise."""

SMALLEST: Final = 2.0**-126
"""The smallest normal float32: kernels that flush subnormals would divide by zero."""

BIAS_STEPS: Final = 2.0**30
"""Integer range of a bias: some runtimes round it to multiples of (activation scale · weight scale), in 32 bits."""

HALF_SMALLEST: Final = 2.0**-24
"""The smallest float16 above zero: no scale may be rounded to zero."""

HALF_COARSE: Final = 2.0**-20
"""Below it neighbouring float16 differ by more than 1/16 of their value. A tensor with only smaller scales does not
suit FP16: its scales stay exact, and the cast leaves its readers in FP32."""

HALF_LARGEST: Final = 65504.0
"""The largest finite float16."""

OUTPUT_AXIS: Final = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
"""The axis of a weight that counts the output channels; for Gemm it depends on transB.

Conv: (out_channels, in_channels / groups, kH, kW). ConvTranspose: (in_channels, out_channels / groups, kH, kW).
MatMul: (in, out). Gemm: (in, out), or (out, in) with transB.
"""

ONE_SCALE: Final = frozenset({"ConvTranspose"})
"""Layers whose weight has a single scale. TensorRT's kernels for ConvTranspose have none per output channel: they take
several scales for those of the input channels, the first axis, and 8.x was seen to compute wrong values with the second
one (NVIDIA/TensorRT#1694, #2380). ONNX Runtime and OpenVINO want the second, if any. One scale means the same to all.
"""


def insert_qdq_pairs(model: ir.Model, placement: Placement, thresholds: Mapping[str, float], half_scales: bool) -> None:
    """Insert every pair of `placement` into `model`; `thresholds` holds the clip magnitude of each tensor with an edge.

    With `half_scales` every scale is a number that float16 holds exactly, so that the graph cast to FP16 quantizes to
    the same codes. Scales too large or too small for float16 stay exact, and their nodes stay FP32.
    """
    lift_constants(model.graph)
    nodes = {node.name: node for node in model.graph}
    scales = activation_scales(placement, thresholds)
    pairs: dict[str, ir.Value] = {}
    for edge in placement.edges:
        node = nodes[edge.node]
        value = node.inputs[edge.position]
        if value is None or value.name != edge.tensor:
            raise InternalError(f"{edge.node} does not read {edge.tensor} at input {edge.position}.", REMEDY)
        if edge.tensor not in pairs:
            scale = _round_up_to_half(np.float32(scales[edge.tensor]), half_scales)
            pairs[edge.tensor] = _insert_activation_pair(model.graph, value, scale)
        node.replace_input_with(edge.position, pairs[edge.tensor])
    readers: dict[tuple[ir.Value | None, int | None], list[ir.Node]] = {}
    for layer in (nodes[name] for name in placement.layers):
        readers.setdefault((layer.inputs[1], scale_axis(layer)), []).append(layer)
    for (weight, axis), layers in readers.items():
        assert weight is not None
        dequantized = _insert_quantized_weight(layers, weight, axis, half_scales)
        for layer in layers:
            layer.replace_input_with(1, dequantized)
    drop_unused_initializers(model.graph)


def activation_scales(placement: Placement, thresholds: Mapping[str, float]) -> dict[str, float]:
    """Scale of each tensor with an edge; tensors that share one get the largest, so that none is clipped more."""
    tensors = {edge.tensor for edge in placement.edges}
    if missing := sorted(tensors - thresholds.keys()):
        raise InternalError(f"Calibration gave no threshold for {missing[0]}.", REMEDY)
    largest = {tensor: thresholds[tensor] for tensor in tensors}
    for group in placement.shared:
        shared_threshold = max(largest[tensor] for tensor in group)
        largest.update(dict.fromkeys(group, shared_threshold))
    return {tensor: max((threshold or 1.0) / STEPS, SMALLEST) for tensor, threshold in largest.items()}


def weight_scales(
    weight: NDArray[np.float32], axis: int | None, half_scales: bool, least: NDArray[np.float64] | float = SMALLEST
) -> NDArray[np.float32]:
    """Max |w| / 127 of each index of `axis`, at least `least`, shape (out_channels,); without an axis of all, shape ().

    A channel of zeros gets the smallest scale of the others. One whose weights were rounded to multiples of a scale
    before, as those of a quantized file were, keeps that: max |w| over its number of steps.
    """
    # weight: output channels along `axis`, see `scale_axis`
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.asarray(np.abs(weight).max(axis=others), np.float64) / count_weight_steps(weight, axis)
    positive = largest[largest > 0]
    scales = np.where(largest > 0, largest, positive.min() if positive.size else 1.0)
    lower = np.max(least) if axis is None else least
    return _round_up_to_half(np.maximum(scales, lower).astype(np.float32), half_scales)


def count_weight_steps(weight: NDArray[np.float32], axis: int | None) -> NDArray[np.int64]:
    """Number n of steps from 0 to max |w|, by index of `axis`: that at which all w · n / max |w| are whole; else 127.

    Folding a BatchNorm scales a channel, which does not change n. Where several fit, 127 does, else the largest: the
    codes of all are exact. −128 of codes to −128 is clipped.
    """
    # rows: (out_channels, weights of a channel), as shares of the largest
    rows = np.abs(
        weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    )
    largest = rows.max(axis=1, initial=0)
    steps = np.full(len(rows), STEPS, np.int64)
    open_rows = np.flatnonzero((largest > 0) & ~_is_whole(rows, largest, STEPS))
    for count in (STEPS + 1, *range(STEPS - 1, 0, -1)):
        fits = _is_whole(rows[open_rows], largest[open_rows], count)
        steps[open_rows[fits]] = count
        open_rows = open_rows[~fits]
    return steps if axis is not None else steps.reshape(())


GRID_TOLERANCE: Final = 2e-4
"""Distance from a whole number, in steps, that rounding to float32 and folding a BatchNorm leaves."""


def _is_whole(rows: NDArray[np.float32], largest: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Whether the weights of each row are multiples of its largest / `count`; few are read where the first are not."""
    fits, divisor = np.ones(len(rows), np.bool_), np.where(largest > 0, largest, 1)[:, None]
    for part in (slice(0, 16), slice(16, None)):
        index = np.flatnonzero(fits)
        position = rows[index, part] / divisor[index] * count
        fits[index] = (np.abs(position - np.rint(position)) < GRID_TOLERANCE).all(axis=1)
    return fits


def min_weight_scales(layer: ir.Node) -> NDArray[np.float64] | float:
    """The smallest weight scales with which 32 bits hold the layer's bias.

    A channel that training has switched off has weights near zero and still a bias; the larger scale costs its weights
    at most a thousandth of the bias.
    """
    data = layer.inputs[0]
    bias = read_constant(layer.inputs[2]) if len(layer.inputs) > 2 else None
    pair = None if data is None else data.producer()
    scale = None if pair is None else read_constant(pair.inputs[1])
    if bias is None or scale is None or bias.ndim != 1:
        return SMALLEST
    return np.maximum(np.abs(bias.astype(np.float64)) / (BIAS_STEPS * float(scale)), SMALLEST)


def quantize_weight(values: NDArray[np.float32], scales: NDArray[np.float32], axis: int | None) -> NDArray[np.int8]:
    """round(value / scale), ties to even like QuantizeLinear, between −127 and 127.

    `scales` are those of `weight_scales`: (out_channels,) along `axis` of `values`, or one, ().
    """
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    divided = values / scales.reshape(shape)
    return np.asarray(np.clip(np.rint(divided), -STEPS, STEPS), np.int8)


def _round_up_to_half(scales: NDArray[np.float32] | np.float32, half: bool) -> NDArray[np.float32]:
    """The scales or, with `half`, the next float16 that is not smaller: rounding down would clip the largest value."""
    exact = np.asarray(scales, np.float32)
    if not half or exact.max() < HALF_COARSE:
        return exact
    near = np.clip(exact, HALF_SMALLEST, HALF_LARGEST).astype(np.float16)
    up = np.where(near.astype(np.float32) < exact, np.nextafter(near, np.float16(HALF_LARGEST)), near)
    return np.where(exact > HALF_LARGEST, exact, up.astype(np.float32))


def _insert_activation_pair(graph: ir.Graph, value: ir.Value, scale: NDArray[np.float32]) -> ir.Value:
    """Insert a Q/DQ pair after the producer of `value`, and return the output of the DQ."""
    name = value.name
    scale_value = add_initializer(graph, f"{name}/scale", scale)
    zero = add_initializer(graph, f"{name}/zero_point", np.zeros((), np.int8))
    quantize = _make_node(
        "QuantizeLinear", [value, scale_value, zero], f"{name}/QuantizeLinear", ir.DataType.INT8, value
    )
    dequantize = _make_node(
        "DequantizeLinear",
        [quantize.outputs[0], scale_value, zero],
        f"{name}/DequantizeLinear",
        ir.DataType.FLOAT,
        value,
    )
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
        for node in (quantize, dequantize):
            node.metadata_props.update(producer.metadata_props)
    return dequantize.outputs[0]


def _insert_quantized_weight(layers: list[ir.Node], weight: ir.Value, axis: int | None, half_scales: bool) -> ir.Value:
    """Quantize a weight that `layers` share, insert its DequantizeLinear, and return the output of that."""
    array, graph = read_constant(weight), layers[0].graph
    assert array is not None
    assert graph is not None
    if not np.isfinite(array).all():
        raise InputError(f"The weight {weight.name} holds NaN or infinity.", "Check the checkpoint.")
    least = functools.reduce(np.maximum, map(min_weight_scales, layers))
    scales = weight_scales(array, axis, half_scales, least)
    name = (
        weight.name
        if f"{weight.name}/codes" not in graph.initializers
        else f"{weight.name}/{'whole' if axis is None else axis}"
    )
    inputs = [
        add_initializer(graph, f"{name}/codes", quantize_weight(array, scales, axis)),
        add_initializer(graph, f"{name}/scale", scales),
        add_initializer(graph, f"{name}/zero_point", np.zeros(scales.shape, np.int8)),
    ]
    node = _make_node("DequantizeLinear", inputs, f"{name}/DequantizeLinear", ir.DataType.FLOAT, weight, axis)
    node.metadata_props.update(layers[0].metadata_props)
    graph.insert_before(layers[0], node)
    return node.outputs[0]


def output_channel_axis(layer: ir.Node) -> int:
    """The axis of a layer's weight that counts the output channels."""
    if layer.op_type == "Gemm":
        return 0 if layer.attributes.get_int("transB", 0) else 1
    return OUTPUT_AXIS[layer.op_type]


def scale_axis(layer: ir.Node) -> int | None:
    """The axis of a layer's weight with one scale per index; None where the whole weight has one scale."""
    return None if layer.op_type in ONE_SCALE else output_channel_axis(layer)


def _make_node(
    op_type: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, like: ir.Value, axis: int | None = None
) -> ir.Node:
    node = ir.node(op_type, inputs, {} if axis is None else {"axis": axis}, name=name)
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, like.shape, ir.TensorType(dtype)
    return node
