"""The CUDA provider's form of a graph: what it computes slowly or on the CPU, written as what it computes fast.

    Bias of a Conv        cuDNN's convolution adds none: the provider adds it with cudnnAddTensor, which took a third of
                          ResNet-50's time in FP16 on an H200 (389 of about 1,650 µs at batch 8), four times as long as
                          its own kernel for Add. So the bias becomes an Add of its own.
    Dequantized biases    It has no kernel that dequantizes int32: each would be computed on the CPU and copied, and no
                          CUDA graph could be used. They become floating-point constants.

The provider computes Q/DQ pairs and what is between them in floating point: no form makes it multiply integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.backends.graph_form import remove_unread_nodes
from deploykit.core.graph_edit import add_initializer, read_constant

FUSION: Final = "ConvAddFusion"
"""ONNX Runtime's optimization that would make such an Add the Conv's bias again."""


def separate_biases(graph: ir.Graph) -> int:
    """Write Conv with a constant bias as Conv and Add, in place; returns how many."""
    count = 0
    for node in list(graph):
        count += node.op_type == "Conv" and _separate_bias(graph, node)
    remove_unread_nodes(graph)
    return count


def _separate_bias(graph: ir.Graph, conv: ir.Node) -> bool:
    """Conv(x, w, b) → Add(Conv(x, w), b) with b as 1×C×1×…, which broadcasts over the batch and the positions."""
    bias = read_constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    weight = conv.inputs[1]
    if bias is None or weight is None or weight.shape is None:
        return False
    shape = (1, -1, *(1 for _ in weight.shape[2:]))
    output = conv.outputs[0]
    constant = add_initializer(graph, f"{conv.name}/bias", bias.reshape(shape))
    conv.resize_inputs(2)
    add = ir.node("Add", [output, constant], name=f"{conv.name}/Add")
    add.metadata_props.update(conv.metadata_props)
    total = add.outputs[0]
    total.shape, total.type = output.shape, output.type
    is_output = output.is_graph_output()
    name = output.name
    for use in list(output.uses()):
        if use.node is not add:
            use.node.replace_input_with(use.idx, total)
    graph.insert_after(conv, add)
    if is_output:
        graph.outputs[list(graph.outputs).index(output)] = total
    output.name, total.name = f"{name}/product", name
    return True


def dequantize_biases(graph: ir.Graph) -> int:
    """Replace every DequantizeLinear of int32 constants by its values, in place; returns how many."""
    count = 0
    for node in list(graph):
        if node.op_type == "DequantizeLinear" and (values := _dequantize(node)) is not None:
            constant = add_initializer(graph, f"{node.name}/value", values)
            ir.convenience.replace_all_uses_with(node.outputs[0], constant)
            count += 1
    remove_unread_nodes(graph)
    return count


def _dequantize(node: ir.Node) -> np.ndarray | None:
    """Values of the codes, codes · scale along the node's axis; None unless codes are constant int32."""
    codes, scale = read_constant(node.inputs[0]), read_constant(node.inputs[1])
    if codes is None or scale is None or codes.dtype != np.int32 or node.outputs[0].is_graph_output():
        return None
    axis = node.attributes.get_int("axis", 1) % max(codes.ndim, 1)
    shape = [-1 if i == axis else 1 for i in range(codes.ndim)] if scale.ndim else ()
    values: np.ndarray = (codes * scale.reshape(shape).astype(np.float64)).astype(scale.dtype)
    return values
