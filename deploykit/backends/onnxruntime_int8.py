"""ONNX Runtime's form of a Q/DQ graph: the same integers, as the patterns that its CPU provider has INT8 kernels for.

Without it none of our convolutions is fused to an INT8 kernel, for the first three reasons; the last two keep ONNX
Runtime from changing values silently:

    int8 activations         Its kernels need uint8. The codes are shifted: zero point 128 instead of 0, code + 128.
    Conv → Relu → Q          Its QLinearConv is Conv → Q. Rounding and clipping are monotonic and map 0 to the zero
                             point, so Q(relu(x)) = max(Q(x), zero point): the Relu moves after the Q. So does a Clip.
    Conv → floating point    Residual sums and classifiers read outputs that are not quantized. A 1×1 convolution is a
                             matrix product over channels, and MatMulIntegerToFloat multiplies integers and writes
                             sum · scale + bias in floating point. For larger kernels no such operator is faster
                             (ConvInteger takes twice as long as FP32): they stay in floating point.
    Bias                     Its QLinearConv adds integers: ONNX Runtime rounds biases to steps of scale · weight scale
                             while loading the graph. The form has them rounded, so that it says what is computed.
    Floating-point weights   of a convolution between a DQ and a Q are quantized while loading the graph, with one scale
                             for all channels (1.31: 37 dB). Only where the DQ has one scale: those in front of such a
                             convolution get one per channel, all equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.backends.graph_form import dequantize_readers, remove_unread_nodes
from deploykit.core.graph_edit import add_initializer, find_single_reader, read_constant

MICROSOFT: Final = "com.microsoft"

ZERO_POINT: Final = 128

ZERO_NAME: Final = "deploykit/zero_point_128"

TO_CHANNELS_LAST: Final = (0, 2, 3, 1)
"""N×C×H×W to N×H×W×C: a matrix product over the last axis is then one over channels."""
TO_CHANNELS_FIRST: Final = (0, 3, 1, 2)


def adapt_graph(model: ir.Model) -> int:
    """Rewrite the Q/DQ graph in place; returns the number of rewritten nodes, 0 where nothing is INT8."""
    graph = model.graph
    zero = add_initializer(graph, ZERO_NAME, np.array(ZERO_POINT, np.uint8))
    shifted = sum(shift_to_uint8(node, zero) for node in list(graph))
    moved = sum(move_clipping(node, zero) for node in list(graph))
    multiplied = sum(use_integer_product(node, zero) for node in list(graph))
    for node in list(graph):
        round_bias(node, zero)
        dequantize_weight(node)
    model.opset_imports.setdefault(MICROSOFT, 1)
    remove_unread_nodes(graph)
    return shifted + moved + multiplied


def shift_to_uint8(quantize: ir.Node, zero: ir.Value) -> bool:
    """Rewrite a pair (or one Q and several DQs) from int8 with zero point 0 to uint8 with zero point 128."""
    if quantize.op_type != "QuantizeLinear" or not _is_symmetric_int8(quantize):
        return False
    readers = dequantize_readers(quantize)
    if not readers or not all(map(_is_symmetric_int8, readers)):
        return False
    for node in (quantize, *readers):
        node.replace_input_with(2, zero)
    quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    return True


def move_clipping(clip: ir.Node, zero: ir.Value) -> bool:
    """Rewrite Conv → Relu → Q to Conv → Q → Max with the zero point, and Conv → Clip → Q to Conv → Q → Clip."""
    clips = clip.op_type in ("Relu", "Clip")
    convolution = clip.inputs[0].producer() if clips and clip.inputs[0] is not None else None
    if convolution is None or convolution.op_type != "Conv" or _quantized_input(convolution, zero) is None:
        return False
    quantize = find_single_reader(clip.outputs[0])
    if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.inputs[2] is not zero:
        return False
    if find_single_reader(convolution.outputs[0]) is not clip or clip.graph is None:
        return False
    written = quantize.outputs[0]
    if clip.op_type == "Relu":
        clipped = _create_node("Max", [written, zero], f"{clip.name}/Max", like=written)
    elif (bounds := _quantize_bounds(clip, quantize)) is not None:
        clipped = _create_node("Clip", [written, *bounds], f"{clip.name}/Clip", like=written)
    else:
        return False
    quantize.replace_input_with(0, convolution.outputs[0])
    for use in list(written.uses()):
        if use.node is not clipped:
            use.node.replace_input_with(use.idx, clipped.outputs[0])
    clip.graph.insert_after(quantize, clipped)
    clip.graph.remove(clip, safe=True)
    return True


def _quantize_bounds(clip: ir.Node, quantize: ir.Node) -> list[ir.Value | None] | None:
    """The codes of a Clip's bounds, None for a bound that it does not have; None where a bound is not constant."""
    scale, graph = read_constant(quantize.inputs[1]), clip.graph
    assert scale is not None, "shift_to_uint8 holds for the pair"
    assert graph is not None
    if clip.attributes:  # the bounds of opsets before 11
        return None
    codes: list[ir.Value | None] = []
    for name, bound in zip(("min", "max"), clip.inputs[1:], strict=False):
        array = read_constant(bound)
        if array is None and bound is not None:
            return None
        code = None if array is None else np.clip(np.rint(array / scale) + ZERO_POINT, 0, 255).astype(np.uint8)
        codes.append(None if code is None else add_initializer(graph, f"{clip.name}/{name}", code.reshape(())))
    return codes


def use_integer_product(layer: ir.Node, zero: ir.Value) -> bool:
    """Replace a Gemm, MatMul or 1×1 Conv with an unquantized output by a MatMulIntegerToFloat of the same name."""
    codes, weight = _quantized_input(layer, zero), _weight_matrix(layer)
    reader = find_single_reader(layer.outputs[0])
    quantized = layer.op_type == "Conv" and reader is not None and reader.op_type == "QuantizeLinear"
    if codes is None or weight is None or quantized or layer.graph is None:
        return False
    graph, name, output = layer.graph, layer.name or "", layer.outputs[0]
    scale, weight_scale = _scale_of(layer.inputs[0]), _scale_of(layer.inputs[1])
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    before, after = [], []
    if layer.op_type == "Conv":
        before = [_create_node("Transpose", [codes], f"{name}/last", {"perm": TO_CHANNELS_LAST}, like=codes)]
        codes = before[0].outputs[0]
    matrix = add_initializer(graph, f"{name}/matrix", weight)
    inputs = [codes, matrix, scale, weight_scale, zero, None, bias]
    product = _create_node("MatMulIntegerToFloat", inputs, f"{name}/product", like=output, domain=MICROSOFT)
    if layer.op_type == "Conv":
        after = [_create_node("Transpose", product.outputs, f"{name}/second", {"perm": TO_CHANNELS_FIRST}, like=output)]
    new = (*before, product, *after)
    graph.insert_after(layer, new)
    ir.convenience.replace_all_uses_with(output, new[-1].outputs[0], replace_graph_outputs=True)
    output_name, output.name = output.name, f"{name}/replaced"
    new[-1].outputs[0].name, new[-1].outputs[0].shape = output_name, output.shape
    graph.remove(layer, safe=True)
    product.name = name
    return True


def dequantize_weight(layer: ir.Node) -> bool:
    """Dequantize the weight of a convolution that stays in floating point, once instead of in every call."""
    pair = layer.inputs[1].producer() if layer.op_type in ("Conv", "ConvTranspose") and layer.inputs[1] else None
    reader = find_single_reader(layer.outputs[0])
    if pair is None or pair.op_type != "DequantizeLinear" or (reader and reader.op_type == "QuantizeLinear"):
        return False
    codes, scale, *zero = (read_constant(value) for value in pair.inputs if value is not None)
    if codes is None or scale is None or scale.dtype != np.float32 or layer.graph is None:
        return False
    if any(point is None or point.any() for point in zero):
        return False
    shape = [1] * len(codes.shape)
    if scale.size > 1:
        shape[pair.attributes.get_int("axis", 1)] = -1
    restored = codes.astype(np.float32) * scale.reshape(shape)
    # Conv: (out_channels, in_channels / groups, …); ConvTranspose: (in_channels, out_channels / groups, …)
    groups = layer.attributes.get_int("group", 1)
    channels = codes.shape[1] * groups if layer.op_type == "Conv" else codes.shape[0]
    if not use_channel_scales(layer, channels):
        return False
    layer.replace_input_with(1, add_initializer(layer.graph, f"{layer.name}/weight", restored))
    return True


def use_channel_scales(layer: ir.Node, channels: int) -> bool:
    """Let a layer read its input through a DQ with equal scales, one per channel. False where there is one channel, and
    True where the input is not quantized.
    """
    pair = None if layer.inputs[0] is None else layer.inputs[0].producer()
    if pair is None or pair.op_type != "DequantizeLinear" or layer.graph is None:
        return True
    scale, zero = read_constant(pair.inputs[1]), read_constant(pair.inputs[2] if len(pair.inputs) > 2 else None)
    if channels == 1 or scale is None or scale.size != 1 or zero is None:
        return channels != 1
    constants = [
        add_initializer(layer.graph, f"{layer.name}/input_{name}", np.full(channels, array.reshape(()), array.dtype))
        for name, array in (("scale", scale), ("zero_point", zero))
    ]
    name = f"{layer.name}/input"
    apart = _create_node("DequantizeLinear", [pair.inputs[0], *constants], name, {"axis": 1}, like=pair.outputs[0])
    layer.graph.insert_before(layer, apart)
    layer.replace_input_with(0, apart.outputs[0])
    return True


def round_bias(layer: ir.Node, zero: ir.Value) -> bool:
    """Round the bias of a convolution that becomes a QLinearConv to int32 codes with a DequantizeLinear."""
    if layer.op_type != "Conv" or len(layer.inputs) < 3 or _quantized_input(layer, zero) is None:
        return False
    reader, pair = find_single_reader(layer.outputs[0]), layer.inputs[1].producer() if layer.inputs[1] else None
    if reader is None or reader.op_type != "QuantizeLinear" or pair is None or pair.op_type != "DequantizeLinear":
        return False
    bias, scale, weight_scale = map(read_constant, (layer.inputs[2], _scale_of(layer.inputs[0]), pair.inputs[1]))
    if bias is None or scale is None or weight_scale is None or layer.graph is None or weight_scale.ndim > 1:
        return False
    steps = scale * weight_scale  # (out_channels,) or (), in float32 as ONNX Runtime multiplies them
    codes = np.rint(bias / steps)
    if not (np.abs(codes) < 2.0**31).all():
        return False
    name = f"{layer.name}/bias"
    inputs = [
        add_initializer(layer.graph, f"{name}/codes", codes.astype(np.int32)),
        add_initializer(layer.graph, f"{name}/scale", steps),
    ]
    rounded = _create_node("DequantizeLinear", inputs, name, {"axis": 0}, like=layer.outputs[0])
    layer.graph.insert_before(layer, rounded)
    layer.replace_input_with(2, rounded.outputs[0])
    return True


def _is_symmetric_int8(node: ir.Node) -> bool:
    """Whether a Q or DQ has one scale in float32 and the int8 zero point 0."""
    if len(node.inputs) != 3 or not all(value is not None for value in node.inputs):
        return False
    scale, zero = (read_constant(value) for value in node.inputs[1:])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return False
    return scale.dtype == np.float32 and zero.dtype == np.int8 and not zero.any()


def _quantized_input(layer: ir.Node, zero: ir.Value) -> ir.Value | None:
    """The uint8 codes that a layer reads through a DQ; None where its input is not quantized."""
    pair = layer.inputs[0].producer() if layer.inputs and layer.inputs[0] is not None else None
    if pair is None or pair.op_type != "DequantizeLinear" or len(pair.inputs) != 3 or pair.inputs[2] is not zero:
        return None
    return pair.inputs[0]


def _weight_matrix(layer: ir.Node) -> NDArray[np.int8] | None:
    """The codes of a layer's weight as inputs × outputs; None where the layer is not a matrix product, or its weight is
    not symmetric int8.
    """
    pair = layer.inputs[1].producer() if len(layer.inputs) > 1 and layer.inputs[1] is not None else None
    if pair is None or pair.op_type != "DequantizeLinear" or len(pair.inputs) != 3:
        return None
    codes, scale, zero = (read_constant(value) for value in pair.inputs)
    if codes is None or scale is None or zero is None or zero.any() or codes.dtype != np.int8:
        return None
    attributes = layer.attributes
    if scale.dtype != np.float32:
        return None
    if layer.op_type == "Conv" and codes.shape[2:] == (1, 1) and _has_plain_geometry(layer):
        return np.ascontiguousarray(codes[:, :, 0, 0].T)
    if layer.op_type == "Gemm" and (attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)) == (1, 1):
        transposed = attributes.get_int("transB", 0)
        return None if attributes.get_int("transA", 0) else np.ascontiguousarray(codes.T if transposed else codes)
    return codes if layer.op_type == "MatMul" and codes.ndim == 2 else None


def _has_plain_geometry(convolution: ir.Node) -> bool:
    """Whether the convolution has no strides, groups and padding."""
    strides = convolution.attributes.get_ints("strides", (1, 1))
    pads = convolution.attributes.get_ints("pads", (0, 0, 0, 0))
    padded = convolution.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return {*strides} == {1} and not any(pads) and not padded and convolution.attributes.get_int("group", 1) == 1


def _scale_of(dequantized: ir.Value | None) -> ir.Value | None:
    pair = None if dequantized is None else dequantized.producer()
    return None if pair is None else pair.inputs[1]


def _create_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    attributes: dict[str, Sequence[int] | int] | None = None,
    *,
    like: ir.Value,
    domain: str = "",
) -> ir.Node:
    node = ir.node(op_type, inputs, attributes or {}, domain=domain, name=name)
    node.outputs[0].name, node.outputs[0].type = name, like.type
    return node
