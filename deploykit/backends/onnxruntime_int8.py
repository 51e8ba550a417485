"""INT8 as ONNX Runtime's CPU provider takes it: the same integers as the Q/DQ graph, in a form that it has kernels for.

As it stands it fuses none of our convolutions, for three reasons, each with its remedy here:

    activations are int8     Its kernels want uint8. The codes are shifted: zero point 128 instead of 0, code + 128.
    Conv → Relu → Q          Its QLinearConv is Conv → Q. Rounding and clipping keep the order of numbers and map 0 to
                             the zero point, so Q(relu(x)) = max(Q(x), zero point): the Relu moves behind the Q.
    Conv → floating point    A residual sum and a classifier read what nobody quantizes. A 1×1 convolution is a matrix
                             product over channels, and MatMulIntegerToFloat multiplies integers and writes
                             sum · scale + bias in floating point. Larger kernels have no such operator that gains
                             anything (ConvInteger takes twice as long as FP32) and stay in floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.backends.graph_form import add_initializer, dequantize_readers

MICROSOFT: Final = "com.microsoft"

ZERO_NAME: Final = "deploykit/zero_point_128"

TO_LAST: Final = (0, 2, 3, 1)
"""N×C×H×W to N×H×W×C, where a product over the last axis is one over channels."""
TO_SECOND: Final = (0, 3, 1, 2)


def adapt(model: ir.Model) -> int:
    """Rewrite the Q/DQ graph of `model` in place; how many of its nodes were rewritten, 0 where nothing is INT8."""
    graph = model.graph
    zero = add_initializer(graph, ZERO_NAME, np.array(128, np.uint8))
    shifted = sum(shift(node, zero) for node in list(graph))
    moved = sum(move_relu(node, zero) for node in list(graph))
    multiplied = sum(multiply(node, zero) for node in list(graph))
    for node in list(graph):
        restore_weight(node)
    model.opset_imports.setdefault(MICROSOFT, 1)
    _drop_unread(graph)
    return shifted + moved + multiplied


def shift(quantize: ir.Node, zero: ir.Value) -> bool:
    """A pair (or one Q and several DQs) of int8 with zero point 0 becomes uint8 with zero point 128."""
    if quantize.op_type != "QuantizeLinear" or not _symmetric(quantize):
        return False
    readers = dequantize_readers(quantize)
    if not readers or not all(map(_symmetric, readers)):
        return False
    for node in (quantize, *readers):
        node.replace_input_with(2, zero)
    quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    return True


def move_relu(relu: ir.Node, zero: ir.Value) -> bool:
    """Conv → Relu → Q becomes Conv → Q → Max with the zero point."""
    convolution = relu.inputs[0].producer() if relu.op_type == "Relu" and relu.inputs[0] is not None else None
    if convolution is None or convolution.op_type != "Conv" or _codes(convolution, zero) is None:
        return False
    quantize = _only_reader(relu)
    if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.inputs[2] is not zero:
        return False
    if _only_reader(convolution) is not relu or relu.graph is None:
        return False
    quantize.replace_input_with(0, convolution.outputs[0])
    written = quantize.outputs[0]
    largest = _node("Max", [written, zero], f"{relu.name}/Max", like=written)
    for use in list(written.uses()):
        if use.node is not largest:
            use.node.replace_input_with(use.idx, largest.outputs[0])
    relu.graph.insert_after(quantize, largest)
    relu.graph.remove(relu, safe=True)
    return True


def multiply(layer: ir.Node, zero: ir.Value) -> bool:
    """A Gemm, a MatMul or a 1×1 Conv whose output nobody quantizes becomes MatMulIntegerToFloat, under its name."""
    codes, weight = _codes(layer, zero), _matrix(layer)
    reader = _only_reader(layer)
    quantized = layer.op_type == "Conv" and reader is not None and reader.op_type == "QuantizeLinear"
    if codes is None or weight is None or quantized or layer.graph is None:
        return False
    graph, name, output = layer.graph, layer.name or "", layer.outputs[0]
    scale, weight_scale = _scale(layer.inputs[0]), _scale(layer.inputs[1])
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    before, after = [], []
    if layer.op_type == "Conv":
        before = [_node("Transpose", [codes], f"{name}/last", {"perm": TO_LAST}, like=codes)]
        codes = before[0].outputs[0]
    matrix = add_initializer(graph, f"{name}/matrix", weight)
    inputs = [codes, matrix, scale, weight_scale, zero, None, bias]
    product = _node("MatMulIntegerToFloat", inputs, f"{name}/product", like=output, domain=MICROSOFT)
    if layer.op_type == "Conv":
        after = [_node("Transpose", product.outputs, f"{name}/second", {"perm": TO_SECOND}, like=output)]
    new = (*before, product, *after)
    graph.insert_after(layer, new)
    ir.convenience.replace_all_uses_with(output, new[-1].outputs[0], replace_graph_outputs=True)
    output_name, output.name = output.name, f"{name}/replaced"
    new[-1].outputs[0].name, new[-1].outputs[0].shape = output_name, output.shape
    graph.remove(layer, safe=True)
    product.name = name
    return True


def restore_weight(layer: ir.Node) -> bool:
    """The weight of a convolution that stays in floating point: dequantized once, here, and not in every call."""
    pair = layer.inputs[1].producer() if layer.op_type in ("Conv", "ConvTranspose") and layer.inputs[1] else None
    reader = _only_reader(layer)
    if pair is None or pair.op_type != "DequantizeLinear" or (reader and reader.op_type == "QuantizeLinear"):
        return False
    codes, scale, *zero = (ir.convenience.get_const_tensor(each) for each in pair.inputs if each is not None)
    if codes is None or scale is None or scale.dtype != ir.DataType.FLOAT or layer.graph is None:
        return False
    if any(each is None or each.numpy().any() for each in zero):
        return False
    shape = [1] * len(codes.shape)
    if scale.size > 1:
        shape[pair.attributes.get_int("axis", 1)] = -1
    restored = codes.numpy().astype(np.float32) * scale.numpy().reshape(shape)
    layer.replace_input_with(1, add_initializer(layer.graph, f"{layer.name}/weight", restored))
    return True


def _symmetric(node: ir.Node) -> bool:
    """Whether a Q or DQ has one scale in float32 and the int8 zero point 0."""
    if len(node.inputs) != 3 or not all(value is not None for value in node.inputs):
        return False
    scale, zero = (ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value is not None)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return False
    return scale.dtype == ir.DataType.FLOAT and zero.dtype == ir.DataType.INT8 and not zero.numpy().any()


def _codes(layer: ir.Node, zero: ir.Value) -> ir.Value | None:
    """The uint8 codes that a layer reads through a DQ; None where it reads something else."""
    pair = layer.inputs[0].producer() if layer.inputs and layer.inputs[0] is not None else None
    if pair is None or pair.op_type != "DequantizeLinear" or len(pair.inputs) != 3 or pair.inputs[2] is not zero:
        return None
    return pair.inputs[0]


def _matrix(layer: ir.Node) -> NDArray[np.int8] | None:
    """The codes of a layer's weight as inputs × outputs; None where the layer is no product of matrices, or its weight
    is not symmetric int8.
    """
    pair = layer.inputs[1].producer() if len(layer.inputs) > 1 and layer.inputs[1] is not None else None
    if pair is None or pair.op_type != "DequantizeLinear" or len(pair.inputs) != 3:
        return None
    codes, scale, zero = (ir.convenience.get_const_tensor(each) for each in pair.inputs if each is not None)
    if codes is None or scale is None or zero is None or zero.numpy().any() or codes.dtype != ir.DataType.INT8:
        return None
    array, attributes = codes.numpy(), layer.attributes
    if scale.dtype != ir.DataType.FLOAT:
        return None
    if layer.op_type == "Conv" and array.shape[2:] == (1, 1) and _plain(layer):
        return np.ascontiguousarray(array[:, :, 0, 0].T)
    if layer.op_type == "Gemm" and (attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)) == (1, 1):
        transposed = attributes.get_int("transB", 0)
        return None if attributes.get_int("transA", 0) else np.ascontiguousarray(array.T if transposed else array)
    return array if layer.op_type == "MatMul" and array.ndim == 2 else None


def _plain(convolution: ir.Node) -> bool:
    """Neither strides nor groups nor padding."""
    strides = convolution.attributes.get_ints("strides", (1, 1))
    pads = convolution.attributes.get_ints("pads", (0, 0, 0, 0))
    padded = convolution.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return {*strides} == {1} and not any(pads) and not padded and convolution.attributes.get_int("group", 1) == 1


def _scale(dequantized: ir.Value | None) -> ir.Value | None:
    pair = None if dequantized is None else dequantized.producer()
    return None if pair is None else pair.inputs[1]


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = tuple(node.outputs[0].uses())
    return readers[0].node if len(readers) == 1 and not node.outputs[0].is_graph_output() else None


def _node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    attributes: dict[str, Sequence[int]] | None = None,
    *,
    like: ir.Value,
    domain: str = "",
) -> ir.Node:
    node = ir.node(op_type, inputs, attributes or {}, domain=domain, name=name)
    node.outputs[0].name, node.outputs[0].type = name, like.type
    return node


def _drop_unread(graph: ir.Graph) -> None:
    """What was replaced: DQs that nobody reads, and constants that only they read."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
