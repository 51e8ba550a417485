"""A product with a positive constant moves into the weights before it, so that mean joins become plain Adds.

    k·(a + b) = k·a + k·b          k·relu(a) = relu(k·a)          k·maxpool(a) = maxpool(k·a)          k > 0
    k·(W∗x + b) = (k·W)∗x + k·b

The constant walks up from the product through sums, concatenations and positively homogeneous functions until every
way ends in a Conv, Gemm or BatchNormalization whose weights can carry it. If one way cannot, nothing moves.
FractalNet joins n columns by their mean: each column's last convolution carries 1/n, and the join is n − 1 Adds.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import bypass, constant, private, read_only_here, set_weight

HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Identity"}
)
"""Functions of one tensor with f(k·x) = k·f(x) for k > 0."""

CARRIED_BY = {"Conv": (1, 2), "Gemm": (1, 2), "BatchNormalization": (1, 2)}
"""Which inputs of a carrier are multiplied: weight and bias, or γ and β."""


class Refusal(Exception):
    """One way up the graph that cannot carry the constant."""


def apply(model: ir.Model) -> Rewrite:
    """Move every Mul and Div by a positive constant that can be moved, and count them.

    Each other Mul and Div is refused, with the first thing that stands in its way.
    """
    applied, refused = 0, []
    for node in [node for node in model.graph if node.op_type in {"Mul", "Div"}]:
        try:
            source, factor = scaling(node)
            ways = carriers(source)
        except Refusal as refusal:
            refused.append(f"{node.name}: {refusal}")
            continue
        for carrier in ways:
            scale(carrier, factor)
        bypass(node, source)
        applied += 1
    return Rewrite("fold_scale", applied, tuple(refused))


def scaling(node: ir.Node) -> tuple[ir.Value, float]:
    """The tensor and the positive scalar that `node` multiplies it by."""
    left, right = node.inputs
    if constant(left) is not None and node.op_type == "Mul":
        left, right = right, left
    factor = constant(right)
    if left is None or factor is None or factor.size != 1:
        raise Refusal("not a product with one constant")
    if factor.ndim > (1 if left.shape is None else len(left.shape)):
        raise Refusal("the constant has more axes than the tensor, and the product takes its shape")
    value = float(factor.reshape(()))
    if not (np.isfinite(value) and value > 0):
        raise Refusal(f"{value:g} is not a positive constant, and ReLU and max only commute with those")
    return left, value if node.op_type == "Mul" else 1 / value


def carriers(value: ir.Value) -> list[ir.Node]:
    """The nodes whose weights can take over a factor of `value`, one for every way up."""
    node = value.producer()
    if node is None:
        kind = "input" if value.is_graph_input() else "constant"
        raise Refusal(f"the graph's {kind} {value.name} has no weights")
    if not read_only_here(value):
        raise Refusal(f"{value.name} has other readers")
    if node.op_type in CARRIED_BY:
        if not all(private(node.inputs[i]) for i in CARRIED_BY[node.op_type] if i < len(node.inputs)):
            raise Refusal(f"the weights of {node.name} are shared or computed")
        return [node]
    if node.op_type in HOMOGENEOUS:
        return carriers(_tensor(node.inputs[0]))
    if node.op_type in {"Add", "Sum", "Concat"}:
        return [carrier for source in node.inputs for carrier in carriers(_tensor(source))]
    raise Refusal(f"{node.op_type} does not commute with a factor")


def scale(carrier: ir.Node, factor: float) -> None:
    """Multiply the weights of one of the `CARRIED_BY` in float64, rounded once."""
    for position in CARRIED_BY[carrier.op_type]:
        weight = constant(carrier.inputs[position]) if position < len(carrier.inputs) else None
        if weight is not None:
            set_weight(carrier, position, (weight.astype(np.float64) * factor).astype(weight.dtype), "")


def _tensor(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise Refusal("an input is missing")
    return value
