"""OpenVINO's form of a Q/DQ graph: unsigned activation codes.

`model.onnx` has the symmetric int8 codes that TensorRT requires. OpenVINO 2026.4.1 computes a Conv after a Concat of
such codes incorrectly on an AMD EPYC with AVX512-VNNI, and the same values as unsigned codes correctly; its fastest
kernels read unsigned codes without a zero point. So the Q/DQ pair of every activation is rewritten:

    non-negative       for example a Relu's output. Zero point 0, and 255 steps where int8 has 127:
                       scale' = scale · 127 / 255, which keeps the largest value. Finer than `model.onnx`.
    all others         zero point 128, code + 128: the same values as in `model.onnx`.
    dense features     signed codes that only BatchNorms read, directly or after a Concat or MaxPool, stay int8. No Conv
                       reads them, and OpenVINO merges the BatchNorm with the pair behind it into a kernel that reads
                       int8, but converts codes with a zero point to floating point first (a seventh of densenet121's
                       latency).

Pairs connected by a Concat or MaxPool share one scale and one zero point, as in `model.onnx`. Weights stay int8.
Other faults are gone round in `openvino_faults`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.backends.graph_form import dequantize_readers, find_pair
from deploykit.core.graph_edit import add_initializer, drop_unused_initializers, read_constant

STEPS_SIGNED: Final = 127
STEPS_UNSIGNED: Final = 255

NEVER_NEGATIVE: Final = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt"})
"""Operators whose outputs are non-negative for every input."""

KEEPS_SIGN: Final = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean", "ReduceSum"}
    | {"DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"}
)
"""Operators that select, rearrange, sum or average values of their first input."""

JOINS: Final = frozenset({"Add", "Concat", "Max", "Mul", "Sum"})
"""Operators whose output is non-negative where all their inputs are."""

COMMUTING: Final = frozenset({"Concat", "MaxPool"})
"""Operators that the runtime computes on codes where input and output share scale and zero point."""


def adapt_graph(model: ir.Model) -> int:
    """Rewrite the Q/DQ graph in place; returns the number of rewritten pairs, 0 where no activation is int8."""
    graph = model.graph
    pairs = [node for node in graph if node.op_type == "QuantizeLinear" and is_symmetric_int8(node)]
    unsigned = never_negative_pairs(graph, pairs)
    signed = dense_feature_pairs(graph, pairs) - unsigned
    pairs = [quantize for quantize in pairs if quantize not in signed]
    zero = {
        True: add_initializer(graph, "deploykit/zero_point_0", np.array(0, np.uint8)),
        False: add_initializer(graph, "deploykit/zero_point_128", np.array(128, np.uint8)),
    }
    for quantize in pairs:
        for node in (quantize, *dequantize_readers(quantize)):
            if quantize in unsigned:
                node.replace_input_with(1, unsigned_scale(graph, node.inputs[1]))
            node.replace_input_with(2, zero[quantize in unsigned])
        quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    drop_unused_initializers(graph)
    return len(pairs)


def is_symmetric_int8(quantize: ir.Node) -> bool:
    """Whether a QuantizeLinear and all DequantizeLinear that read it have one scale and the int8 zero point 0."""
    readers = dequantize_readers(quantize)
    return bool(readers) and all(_has_zero_point_0(node) for node in (quantize, *readers))


def _has_zero_point_0(node: ir.Node) -> bool:
    if len(node.inputs) != 3 or any(value is None for value in node.inputs):
        return False
    scale, zero = (read_constant(value) for value in node.inputs[1:])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return False
    return zero.dtype == np.int8 and not zero.any()


def unsigned_scale(graph: ir.Graph, scale: ir.Value | None) -> ir.Value:
    """The scale with which 255 unsigned steps cover the range of 127 signed ones, shared like the original."""
    array = read_constant(scale)
    assert scale is not None, "is_symmetric_int8 holds for the pair"
    assert array is not None, "is_symmetric_int8 holds for the pair"
    name = f"{scale.name}/unsigned"
    if name in graph.initializers:
        return graph.initializers[name]
    finer = (array.astype(np.float64) * STEPS_SIGNED / STEPS_UNSIGNED).astype(array.dtype)
    return add_initializer(graph, name, finer)


def never_negative_pairs(graph: ir.Graph, pairs: Iterable[ir.Node]) -> frozenset[ir.Node]:
    """The pairs whose tensor is non-negative for every input, and so are those that a `COMMUTING` node connects them
    with.
    """
    non_negative = never_negative(graph)
    return keep_whole_groups(graph, {quantize for quantize in pairs if quantize.inputs[0] in non_negative})


def dense_feature_pairs(graph: ir.Graph, pairs: Iterable[ir.Node]) -> frozenset[ir.Node]:
    """The pairs that only BatchNorms read, directly or after `COMMUTING` nodes, and so do those that these connect them
    with.
    """
    readers = {quantize: [reader.outputs[0] for reader in dequantize_readers(quantize)] for quantize in pairs}
    return keep_whole_groups(
        graph, {quantize for quantize, tensors in readers.items() if all(map(only_batchnorms_read, tensors))}
    )


def only_batchnorms_read(tensor: ir.Value) -> bool:
    """Whether BatchNorms read the tensor and nothing else does, directly or after `COMMUTING` nodes and their pairs."""
    passing = COMMUTING | {"QuantizeLinear", "DequantizeLinear"}
    readers = [use.node for use in tensor.uses()]
    return not tensor.is_graph_output() and all(
        node.op_type == "BatchNormalization" or (node.op_type in passing and only_batchnorms_read(node.outputs[0]))
        for node in readers
    )


def keep_whole_groups(graph: ir.Graph, pairs: set[ir.Node]) -> frozenset[ir.Node]:
    """`pairs` without those that a `COMMUTING` node connects with a pair that is not among them."""
    groups = list(connected_pairs(graph))
    while any(mixed := [group for group in groups if group & pairs and not group <= pairs]):
        pairs.difference_update(*mixed)
    return frozenset(pairs)


def never_negative(graph: ir.Graph) -> frozenset[ir.Value]:
    """The tensors that are non-negative for every input, derived from the operators that write them."""
    non_negative: set[ir.Value] = set()
    for node in graph:
        if writes_no_negative(node, non_negative):
            non_negative.update(node.outputs)
    return frozenset(non_negative)


def writes_no_negative(node: ir.Node, known: set[ir.Value]) -> bool:
    """Whether a node's outputs are non-negative, given that the tensors `known` are."""
    if node.op_type in NEVER_NEGATIVE:
        return True
    if node.op_type == "Clip":
        lowest = read_constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return lowest is not None and bool((lowest >= 0).all())
    if node.op_type in KEEPS_SIGN:
        return node.inputs[0] in known
    return node.op_type in JOINS and all(value is not None and _is_at_least_0(value, known) for value in node.inputs)


def _is_at_least_0(value: ir.Value, known: set[ir.Value]) -> bool:
    constant = read_constant(value)
    return value in known or (constant is not None and bool((constant >= 0).all()))


def connected_pairs(graph: ir.Graph) -> Iterable[frozenset[ir.Node]]:
    """For each `COMMUTING` node, the pairs before and after it."""
    for node in graph:
        if node.op_type in COMMUTING:
            before = (find_pair(value) for value in node.inputs)
            after = (use.node for use in node.outputs[0].uses() if use.node.op_type == "QuantizeLinear")
            yield frozenset(pair for pair in (*before, *after) if pair is not None)
