"""Small numbers in front of a division, a root or a logarithm: what FP16 would round to zero must not get there.

    Div by a tensor, Reciprocal, Sqrt, Log, Pow with an exponent below 1

magnify whatever rounding does near zero: 1 / (0 + 1e-12) is infinite where 1e-12 is zero. Their operand is small where
samples showed it below the type's normal range (FP16: 6.1e-5), or where a small constant is all that keeps it from
zero, as in Div(x, Max(|x|, 1e-12)): a black image may show what no sample did. Such an operand is computed in FP32:

    the operator itself        always
    what computes its operand  and, through sums and moved elements, what computes their terms: squares
    what reads its output      where the small constant would make it exceed the type: x · Reciprocal(√(s + 1e-12))

A layer is never kept in FP32 for that: it accumulates in FP32, and only its result is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.core.graph_edit import read_constant
from deploykit.core.values import Range
from deploykit.quantize.formats import Format
from deploykit.quantize.placement import LAYERS
from deploykit.quantize.rounding import is_exact, is_float32

VERBS: Final = {
    "Div": "divides by",
    "Reciprocal": "divides by",
    "Sqrt": "takes the root of",
    "Log": "takes the logarithm of",
    "Pow": "takes a root or a reciprocal of",
}
SUMMING: Final = frozenset({"Add", "Sum", "ReduceSum", "ReduceMean", "ReduceL1", "GlobalAveragePool", "AveragePool"})
"""Operators whose result is small only where their terms are."""

MOVING: Final = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Slice", "Gather", "Identity"}
    | {"ReduceMax", "ReduceMin", "Abs"}
)
"""Operators whose elements are elements of their first input."""

DEPTH: Final = 16
"""Nodes between a small constant and the operator that it protects, at most."""


def find_small_operands(graph: ir.Graph, ranges: Mapping[str, Range], to: Format) -> dict[ir.Node, str]:
    """The nodes that must stay FP32 for the sake of small numbers, each with its reason."""
    reasons: dict[ir.Node, str] = {}
    for node in graph:
        operand = _magnified_operand(node)
        if operand is None or not _is_small(operand, ranges, to):
            continue
        smallest = _describe_smallest(operand, ranges, to)
        reasons.setdefault(node, f"{VERBS[node.op_type]} {operand.name}, {smallest}")
        reason = f"computes what {node.name or node.op_type} {VERBS[node.op_type]}, {smallest}"
        for producer in _list_small_producers(operand, ranges, to, DEPTH):
            reasons.setdefault(producer, reason)
        reach = _largest_result(node, ranges)
        if reach is not None and to.exceeded_by(reach):
            for reader in _iterate_readers(node.outputs[0]):
                reasons.setdefault(reader, f"reads {node.outputs[0].name}, which may reach {reach:.4g}")
    return reasons


def _magnified_operand(node: ir.Node) -> ir.Value | None:
    """The float32 tensor that the operator divides by, roots or logs."""
    if node.domain or node.op_type not in VERBS:
        return None
    operand = node.inputs[1 if node.op_type == "Div" else 0]
    if operand is None or not is_float32(operand):
        return None
    if node.op_type == "Pow" and (exponent := read_constant(node.inputs[1])) is not None:
        return operand if np.any((exponent < 1) & (exponent != 0)) else None
    return operand


def _is_small(value: ir.Value, ranges: Mapping[str, Range], to: Format) -> bool:
    """Whether the tensor may hold numbers, other than exact zeros, below the type's normal range."""
    if read_constant(value) is not None:
        return _holds_small_constant(value, to)
    bound = _lower_bound(value, ranges, DEPTH)
    if bound is None:
        observed = ranges.get(value.name or "")
        return observed is not None and _distance_from_zero(observed) < to.smallest_normal
    return bound < to.smallest_normal


def _holds_small_constant(value: ir.Value, to: Format) -> bool:
    array = read_constant(value)
    return array is not None and bool(np.any((array != 0) & (np.abs(array) < to.smallest_normal)))


def _distance_from_zero(observed: Range) -> float:
    return max(observed.low, -observed.high, 0.0)


def _describe_smallest(value: ir.Value, ranges: Mapping[str, Range], to: Format) -> str:
    bound = _lower_bound(value, ranges, DEPTH)
    below = f"below {to.name}'s normal range (from {to.smallest_normal:.3g})"
    return f"which holds values {below}" if bound is None else f"which {bound:.3g} keeps from zero, {below}"


def _list_small_producers(value: ir.Value, ranges: Mapping[str, Range], to: Format, depth: int) -> list[ir.Node]:
    """The nodes that must compute in FP32 so that a small `value` is not rounded; none where a layer has rounded it.

    Only sums without negative terms are followed: small, they have small terms. A sum that is small because its terms
    cancel is no better for more precise terms.
    """
    node = value.producer()
    if node is None or node.op_type in LAYERS or depth == 0:
        return []
    exact, summing = is_exact(node), node.op_type in SUMMING and node.domain == ""
    inputs = [u for u in node.inputs if u is not None and is_float32(u)]
    followed = [u for u in inputs if (exact or summing) and _is_nonnegative(u, ranges)]
    computed = [producer for u in followed for producer in _list_small_producers(u, ranges, to, depth - 1)]
    if exact and not computed and not any(_holds_small_constant(u, to) for u in inputs):
        return []
    return [node, *computed]


def _iterate_readers(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that compute with the tensor, and those that move its elements there."""
    for reader, _ in value.uses():
        yield reader
        if is_exact(reader):
            for output in reader.outputs:
                yield from _iterate_readers(output)


def _largest_result(node: ir.Node, ranges: Mapping[str, Range]) -> float | None:
    """What the operator returns where only a small constant keeps its operand from zero; None: the samples show it."""
    operand = _magnified_operand(node)
    bound = None if operand is None else _lower_bound(operand, ranges, DEPTH)
    if bound is None:
        return None
    if node.op_type == "Reciprocal":
        return 1 / bound
    constant = read_constant(node.inputs[0 if node.op_type == "Div" else 1]) if node.op_type in ("Div", "Pow") else None
    if constant is None or not constant.size:
        return None
    if node.op_type == "Div":
        return float(np.max(np.abs(constant))) / bound
    return _power(bound, float(constant.min()))


def _lower_bound(value: ir.Value | None, ranges: Mapping[str, Range], depth: int) -> float | None:
    """A positive number below which the tensor never falls, from the graph's constants; None: none is known."""
    if value is None or depth == 0:
        return None
    array, node = read_constant(value), value.producer()
    if array is not None:
        return float(array.min()) if array.size and array.min() > 0 else None
    if node is None or node.domain:
        return None
    bounds = [_lower_bound(u, ranges, depth - 1) for u in node.inputs if u is not None and is_float32(u)]
    known = [bound for bound in bounds if bound is not None]
    bound = _combine_bounds(node, bounds, known, ranges)
    return bound if bound is not None and bound > 0 else None


def _combine_bounds(
    node: ir.Node, bounds: list[float | None], known: list[float], ranges: Mapping[str, Range]
) -> float | None:
    """The lower bound of a node's output from those of its float32 inputs."""
    if not known:
        return None
    if node.op_type == "Clip":
        return max(filter(None, bounds[:2]), default=None)
    if node.op_type == "Max":
        return max(known)
    if node.op_type in {"Min", "Where", "Concat"}:
        floats = [u for u in node.inputs if u is not None and is_float32(u)]
        return min(_observed_bound(u, ranges) if b is None else b for u, b in zip(floats, bounds, strict=True))
    if node.op_type in {"Add", "Sum"}:
        return max(known) if all(_is_nonnegative(u, ranges) for u in node.inputs) else None
    if node.op_type == "Mul" and len(known) == len(bounds):
        return math.prod(known)
    if node.op_type == "Sqrt":
        return math.sqrt(known[0])
    if node.op_type == "Pow" and bounds[0] is not None and (exponent := read_constant(node.inputs[1])) is not None:
        return _power(bounds[0], float(exponent.max())) if np.all(exponent > 0) else None
    return bounds[0] if node.op_type in MOVING | SUMMING else None


def _observed_bound(value: ir.Value, ranges: Mapping[str, Range]) -> float:
    observed = ranges.get(value.name or "")
    return 0.0 if observed is None else _distance_from_zero(observed)


def _is_nonnegative(value: ir.Value | None, ranges: Mapping[str, Range]) -> bool:
    if value is None:
        return True
    array = read_constant(value)
    if array is not None:
        return bool((array >= 0).all())
    observed = ranges.get(value.name or "")
    return observed is not None and observed.low >= 0


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf
