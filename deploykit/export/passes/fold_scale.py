"""Folds a multiplication by a positive constant into the weights before it, so that mean joins become plain Adds.

    k·(a + b) = k·a + k·b          k·relu(a) = relu(k·a)          k·maxpool(a) = maxpool(k·a)          k > 0
    k·(W∗x + b) = (k·W)∗x + k·b                 k: a scalar; a, b and all outputs keep their shapes

The search goes from the product upwards, through sums, concatenations and positively homogeneous functions, until every
path ends in a Conv, Gemm or BatchNormalization with weights of its own. If one path does not, nothing is changed.
FractalNet joins n columns by their mean: the last convolution of each column takes 1/n, and the join is n − 1 Adds.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploykit.core.graph_edit import (
    bypass_node,
    has_single_use,
    is_single_use_initializer,
    read_constant,
    set_initializer,
)
from deploykit.core.values import Rewrite

HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Identity"}
)
"""Functions of one tensor with f(k·x) = k·f(x) for k > 0."""

SCALED_INPUTS = {"Conv": (1, 2), "Gemm": (1, 2), "BatchNormalization": (1, 2)}
"""Operators whose weights can take the factor, and which inputs to multiply: weight and bias, or γ and β."""


class CannotScale(Exception):
    """One path of the graph cannot take the factor; the message says why."""


def apply(model: ir.Model) -> Rewrite:
    """Fold every Mul and Div by a positive constant, and count them. The others are skipped, with the first reason."""
    applied, skip_reasons = 0, []
    for node in [node for node in model.graph if node.op_type in {"Mul", "Div"}]:
        try:
            source, factor = read_scaling(node)
            carriers = find_carriers(source)
        except CannotScale as reason:
            skip_reasons.append(f"{node.name}: {reason}")
            continue
        for carrier in carriers:
            scale_weights(carrier, factor)
        bypass_node(node, source)
        applied += 1
    return Rewrite("fold_scale", applied, tuple(skip_reasons))


def read_scaling(node: ir.Node) -> tuple[ir.Value, float]:
    """Return the tensor and the positive scalar that `node` multiplies it by. Raises CannotScale."""
    left, right = node.inputs
    if read_constant(left) is not None and node.op_type == "Mul":
        left, right = right, left
    factor = read_constant(right)
    if left is None or factor is None or factor.size != 1:
        raise CannotScale("not a product with one constant")
    if factor.ndim > (1 if left.shape is None else len(left.shape)):
        raise CannotScale("the constant has more axes than the tensor and changes its shape")
    value = float(factor.reshape(()))
    if not (np.isfinite(value) and value > 0):
        raise CannotScale(f"{value:g} is not positive, and ReLU and max commute with positive factors only")
    return left, value if node.op_type == "Mul" else 1 / value


def find_carriers(value: ir.Value) -> list[ir.Node]:
    """Return the nodes whose weights can take a factor of `value`, one per path. Raises CannotScale."""
    node = value.producer()
    if node is None:
        kind = "input" if value.is_graph_input() else "constant"
        raise CannotScale(f"the graph's {kind} {value.name} has no weights")
    if not has_single_use(value):
        raise CannotScale(f"{value.name} has other readers")
    if node.op_type in SCALED_INPUTS:
        if not all(
            is_single_use_initializer(node.inputs[i]) for i in SCALED_INPUTS[node.op_type] if i < len(node.inputs)
        ):
            raise CannotScale(f"the weights of {node.name} are shared or computed")
        return [node]
    if node.op_type in HOMOGENEOUS:
        return find_carriers(_require_tensor(node.inputs[0]))
    if node.op_type in {"Add", "Sum", "Concat"}:
        return [carrier for source in node.inputs for carrier in find_carriers(_require_tensor(source))]
    raise CannotScale(f"{node.op_type} does not commute with a factor")


def scale_weights(carrier: ir.Node, factor: float) -> None:
    """Multiply the weights of `carrier` by `factor`, in float64, rounded once."""
    for position in SCALED_INPUTS[carrier.op_type]:
        weight = read_constant(carrier.inputs[position]) if position < len(carrier.inputs) else None
        if weight is not None:
            set_initializer(carrier, position, (weight.astype(np.float64) * factor).astype(weight.dtype), "")


def _require_tensor(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise CannotScale("an input is missing")
    return value
