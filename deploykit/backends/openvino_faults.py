"""Rewrites that go round what OpenVINO computes incorrectly in INT8, or not in INT8.

Observed in 2026.4.1 on an AMD EPYC with AVX512-VNNI, by comparing OpenVINO with ONNX Runtime without optimizations on
the same file, as tests/backends/test_operators_int8.py does for every operator:

    Conv without a bias   whose output is read more than once: its scale is applied twice for one of the readers (0 dB).
                          With a bias it is right. A bias of zeros would be optimized away, so the convolution gets one
                          of 2⁻¹⁰⁰: added to any other value it changes no bit, and it is quantized to 0.
    Mul by a constant     that is negative for some channels: it is merged into the pair after it, whose limits then are
                          in the wrong order (0 dB). An Add of 2⁻¹⁰⁰ between them prevents it.
    ReduceMax, ReduceMin, before a pair: the extreme is taken among values already cast to 8 bits, before they are
    GlobalMaxPool         scaled (20 dB, a minimum 0 dB). An extreme of codes is right, so a second pair, with the same
                          scale, is put before the operator: quantization is monotonic, and the values stay the same.
                          Where arithmetic lies in between (a Sigmoid), the pair is removed, and the layers that read it
                          stay in floating point.
    Conv → Q/DQ → Add     is one kernel, which does not round to the pair's steps (44 dB). The pair is removed, so that
                          the form says what is computed: values finer than those of `model.onnx`.
    1×1 Conv with strides whose input is read only with these strides (both paths of Keras' ResNet-50): the strides
                          become a pooling between the pair and the convolution, and the layers stay in FP32. A MaxPool
                          of one element does the same in the form, and is computed on codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.backends.graph_form import dequantize_readers, find_pair, remove_unread_nodes
from deploykit.core.graph_edit import add_initializer, find_single_reader, has_single_use, is_constant, read_constant

NEGLIGIBLE: Final = 2.0**-100
"""A bias that is not zero and changes no value of a magnitude above 2⁻⁷⁶."""

CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})

EXTREMES: Final = frozenset({"ReduceMax", "ReduceMin", "GlobalMaxPool"})

ORDER_KEEPING: Final = frozenset({"Relu", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that give the same codes whether their input was quantized with their output's scale or not."""

JOINED_ACTIVATIONS: Final = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "Tanh", "Elu"})
"""Operators with one computed input that OpenVINO fuses into the kernel of a convolution."""


def avoid_faults(model: ir.Model) -> int:
    """Rewrite the graph in place; returns the number of rewritten nodes."""
    nodes = list(model.graph)
    biased = sum(add_negligible_bias(node) + separate_negative_factor(node) for node in nodes)
    moved = sum(quantize_before_extreme(node) for node in nodes)
    removed = sum(remove_fused_pair(node) for node in nodes)
    sampled = sum(separate_strides(node) for node in nodes)
    remove_unread_nodes(model.graph)
    return biased + moved + removed + sampled


def add_negligible_bias(layer: ir.Node) -> bool:
    """Give a quantized convolution without a bias, or with a bias of zeros, one of `NEGLIGIBLE`."""
    if layer.op_type not in CONVOLUTIONS or layer.graph is None:
        return False
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        zeros = read_constant(layer.inputs[2])
        if zeros is None or zeros.any():
            return False
    dequantize = None if layer.inputs[1] is None else layer.inputs[1].producer()
    weight = read_constant(dequantize.inputs[0]) if dequantize is not None and dequantize.inputs else None
    if weight is None or find_pair(layer.inputs[0]) is None:
        return False
    # Conv: (out_channels, …); ConvTranspose: (in_channels, out_channels / groups, …)
    groups = layer.attributes.get_int("group", 1)
    channels = weight.shape[0] if layer.op_type == "Conv" else weight.shape[1] * groups
    bias = add_initializer(layer.graph, f"{layer.name}/bias", np.full(channels, NEGLIGIBLE, np.float32))
    if len(layer.inputs) < 3:
        layer.resize_inputs(3)
    layer.replace_input_with(2, bias)
    return True


def separate_negative_factor(product: ir.Node) -> bool:
    """Add `NEGLIGIBLE` to the product of a tensor and a constant that is negative for some channels."""
    if product.op_type not in ("Mul", "Div") or product.graph is None:
        return False
    factors = [factor for value in product.inputs if (factor := read_constant(value)) is not None]
    if not any(factor.size > 1 and (factor < 0).any() for factor in factors):
        return False
    output = product.outputs[0]
    term = add_initializer(
        product.graph, f"{product.name}/negligible", np.full(factors[0].shape, NEGLIGIBLE, np.float32)
    )
    add = ir.node("Add", [output, term], name=f"{product.name}/Add")
    add.outputs[0].name, add.outputs[0].type, add.outputs[0].shape = add.name, output.type, output.shape
    for use in list(output.uses()):
        use.node.replace_input_with(use.idx, add.outputs[0])
    add.replace_input_with(0, output)
    product.graph.insert_after(product, add)
    return True


def quantize_before_extreme(quantize: ir.Node) -> bool:
    """Put a pair before the ReduceMax (and its like) whose output a pair quantizes; where that would change the values,
    remove the pair.
    """
    readers = dequantize_readers(quantize) if quantize.op_type == "QuantizeLinear" else []
    if not readers or quantize.graph is None:
        return False
    above = list(climb_arithmetic(quantize.inputs[0]))
    if not above or above[-1].op_type not in EXTREMES:
        return False
    extreme, between = above[-1], above[:-1]
    if any(node.op_type not in ORDER_KEEPING for node in between):
        _bypass_pair(quantize, readers)
        return True
    name, (scale, zero) = f"{extreme.name}/input", quantize.inputs[1:3]
    before = ir.node("QuantizeLinear", [extreme.inputs[0], scale, zero], name=f"{name}/QuantizeLinear")
    after = ir.node("DequantizeLinear", [before.outputs[0], scale, zero], name=f"{name}/DequantizeLinear")
    for node, like in ((before, quantize), (after, readers[0])):
        node.outputs[0].name, node.outputs[0].type = node.name, like.outputs[0].type
    quantize.graph.insert_before(extreme, [before, after])
    extreme.replace_input_with(0, after.outputs[0])
    return True


def climb_arithmetic(value: ir.Value | None) -> Iterator[ir.Node]:
    """The nodes with one computed input that lead to a tensor, upwards, each read by the next one alone; ends with the
    first of `EXTREMES`.
    """
    while value is not None and has_single_use(value) and (node := value.producer()) is not None:
        computed = [source for source in node.inputs if source is not None and not is_constant(source)]
        if len(computed) != 1 or node.op_type in (*CONVOLUTIONS, "Gemm", "MatMul", "DequantizeLinear"):
            return
        yield node
        if node.op_type in EXTREMES:
            return
        value = computed[0]


def remove_fused_pair(add: ir.Node) -> bool:
    """Remove the pair between a convolution, or its activation, and an Add that is fused with no other convolution."""
    if add.op_type != "Add" or any(_is_fusable(value) for value in add.inputs):
        return False
    for value in add.inputs:
        pair = find_pair(value)
        if value is None or pair is None or find_single_reader(value) is not add:
            continue
        if find_single_reader(pair.outputs[0]) is not None and _is_fusable(pair.inputs[0]):
            _bypass_pair(pair, dequantize_readers(pair))
            return True
    return False


def separate_strides(quantize: ir.Node) -> bool:
    """Put the strides of the 1×1 convolutions that read a pair into one MaxPool before them, where all of them have the
    same.
    """
    readers = dequantize_readers(quantize) if quantize.op_type == "QuantizeLinear" else []
    layers = [use.node for reader in readers for use in reader.outputs[0].uses()]
    strides = {_read_strides(layer) for layer in layers}
    steps = strides.pop() if len(strides) == 1 else None
    if steps is None or any(reader.outputs[0].is_graph_output() for reader in readers) or quantize.graph is None:
        return False
    tensor, ones = readers[0].outputs[0], [1] * len(steps)
    pool = ir.node("MaxPool", [tensor], {"kernel_shape": ones, "strides": steps}, name=f"{tensor.name}/strides")
    pool.outputs[0].name, pool.outputs[0].type = pool.name, tensor.type
    for layer in layers:
        layer.replace_input_with(0, pool.outputs[0])
        layer.attributes["strides"] = ir.AttrInt64s("strides", ones)
    quantize.graph.insert_after(readers[0], pool)
    return True


def _read_strides(layer: ir.Node) -> tuple[int, ...] | None:
    """The strides of a convolution with a kernel of one element; None for other nodes, and where all strides are 1."""
    weight = layer.inputs[1].producer() if layer.op_type == "Conv" and layer.inputs[1] is not None else None
    codes = None if weight is None else read_constant(weight.inputs[0])
    strides = tuple(layer.attributes.get_ints("strides", ()))
    if codes is None or {*codes.shape[2:]} != {1} or {*strides} <= {1} or any(layer.attributes.get_ints("pads", ())):
        return None
    return strides


def _is_fusable(value: ir.Value | None) -> bool:
    """Whether a convolution, or one activation after it, writes the tensor for one reader."""
    node = None if value is None or not has_single_use(value) else value.producer()
    if node is not None and node.op_type in JOINED_ACTIVATIONS:
        value = node.inputs[0]
        node = None if value is None or not has_single_use(value) else value.producer()
    return node is not None and node.op_type in CONVOLUTIONS


def _bypass_pair(quantize: ir.Node, readers: list[ir.Node]) -> None:
    assert quantize.inputs[0] is not None, "a QuantizeLinear reads a tensor"
    for dequantize in readers:
        ir.convenience.replace_all_uses_with(dequantize.outputs[0], quantize.inputs[0])
