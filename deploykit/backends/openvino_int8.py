"""INT8 as OpenVINO computes it best, and on some processors computes it at all: unsigned codes.

`model.onnx` has the symmetric int8 codes that TensorRT takes. OpenVINO 2026.4.1 computes a Conv behind a Concat of such
codes wrongly on an AMD EPYC with AVX512-VNNI, and the same numbers as unsigned codes rightly; and its fastest kernels
read unsigned codes without a zero point. So every activation's pair is rewritten:

    never negative     a Relu's output, say. Zero point 0, and 255 steps where int8 has 127 for it:
                       scale' = scale · 127 / 255, so that the largest value stays. Finer than `model.onnx`.
    everything else    zero point 128, code + 128: the same numbers as in `model.onnx`.

Pairs that a Concat or a MaxPool connects keep one scale and one zero point among them, as in `model.onnx`. Weights stay
int8.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.backends.graph_form import add_initializer, dequantize_readers

STEPS_SIGNED: Final = 127
STEPS_UNSIGNED: Final = 255

NEVER_NEGATIVE: Final = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt"})
"""Operators whose outputs are zero or more, whatever they read."""

KEEPS_SIGN: Final = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean", "ReduceSum"}
    | {"DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"}
)
"""Operators that select, arrange, add up or average values of their first input."""

JOINS: Final = frozenset({"Add", "Concat", "Max", "Mul", "Sum"})
"""Operators whose output is never negative where none of their inputs is."""

COMMUTING: Final = frozenset({"Concat", "MaxPool"})
"""Operators that the runtime computes on codes, where these mean the same before and behind."""


def adapt(model: ir.Model) -> int:
    """Rewrite the Q/DQ graph of `model` in place; how many pairs were rewritten, 0 where no activation is int8."""
    graph = model.graph
    pairs = [node for node in graph if node.op_type == "QuantizeLinear" and is_symmetric_int8(node)]
    unsigned = never_negative_pairs(graph, pairs)
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
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return len(pairs)


def is_symmetric_int8(quantize: ir.Node) -> bool:
    """Whether a QuantizeLinear and all DequantizeLinear behind it have one scale and the int8 zero point 0."""
    readers = dequantize_readers(quantize)
    return bool(readers) and all(_has_zero_point_0(node) for node in (quantize, *readers))


def _has_zero_point_0(node: ir.Node) -> bool:
    if len(node.inputs) != 3 or any(value is None for value in node.inputs):
        return False
    scale, zero = (ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value is not None)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return False
    return zero.dtype == ir.DataType.INT8 and not zero.numpy().any()


def unsigned_scale(graph: ir.Graph, scale: ir.Value | None) -> ir.Value:
    """The scale with which 255 unsigned steps reach as far as 127 signed ones: one constant for all that share it."""
    tensor = ir.convenience.get_const_tensor(scale) if scale is not None else None
    assert scale is not None, "is_symmetric_int8 holds for the pair"
    assert tensor is not None, "is_symmetric_int8 holds for the pair"
    name = f"{scale.name}/unsigned"
    if name in graph.initializers:
        return graph.initializers[name]
    array = tensor.numpy()
    finer = (array.astype(np.float64) * STEPS_SIGNED / STEPS_UNSIGNED).astype(array.dtype)
    return add_initializer(graph, name, finer)


def never_negative_pairs(graph: ir.Graph, pairs: Iterable[ir.Node]) -> frozenset[ir.Node]:
    """The pairs whose tensor is zero or more for every input, as are all those that a `COMMUTING` node connects them
    with.
    """
    found = never_negative(graph)
    unsigned = {quantize for quantize in pairs if quantize.inputs[0] in found}
    groups = list(connected_pairs(graph))
    while any(mixed := [group for group in groups if group & unsigned and not group <= unsigned]):
        unsigned.difference_update(*mixed)
    return frozenset(unsigned)


def never_negative(graph: ir.Graph) -> frozenset[ir.Value]:
    """The tensors that no input makes negative, read from the operators that write them."""
    found: set[ir.Value] = set()
    for node in graph:
        if writes_no_negative(node, found):
            found.update(node.outputs)
    return frozenset(found)


def writes_no_negative(node: ir.Node, known: set[ir.Value]) -> bool:
    """Whether a node's outputs are zero or more, where the tensors `known` are."""
    if node.op_type in NEVER_NEGATIVE:
        return True
    if node.op_type == "Clip":
        lowest = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
        return lowest is not None and bool((lowest.numpy() >= 0).all())
    if node.op_type in KEEPS_SIGN:
        return node.inputs[0] in known
    return node.op_type in JOINS and all(value is not None and _is_at_least_0(value, known) for value in node.inputs)


def _is_at_least_0(value: ir.Value, known: set[ir.Value]) -> bool:
    constant = ir.convenience.get_const_tensor(value)
    return value in known or (constant is not None and bool((constant.numpy() >= 0).all()))


def connected_pairs(graph: ir.Graph) -> Iterable[frozenset[ir.Node]]:
    """For each `COMMUTING` node the pairs before and behind it."""
    for node in graph:
        if node.op_type in COMMUTING:
            before = (_pair_before(value) for value in node.inputs)
            behind = (use.node for use in node.outputs[0].uses() if use.node.op_type == "QuantizeLinear")
            yield frozenset(pair for pair in (*before, *behind) if pair is not None)


def _pair_before(value: ir.Value | None) -> ir.Node | None:
    """The QuantizeLinear of the pair that writes a tensor; None where no pair does."""
    dequantize = None if value is None else value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return None
    quantize = dequantize.inputs[0].producer()
    return quantize if quantize is not None and quantize.op_type == "QuantizeLinear" else None
