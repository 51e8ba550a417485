"""Sums, squares and roots inside one operator, which no observed tensor shows: whether a 16-bit type holds them.

    ReduceL2, LpNormalization, LpPool, GlobalLpPool   squares leave FP16 from 256 on, and vanish below 0.0002
    LogSoftmax, ReduceLogSum                          logarithms of what FP16 may round to zero
    InstanceNormalization, BatchNormalization         the root of a variance plus ε: FP32 where ε is not normal in FP16
    LayerNormalization, RMSNormalization and others   FP32 inside by definition (`stash_type`); ε must not vanish
    ReduceMean, ReduceSum, average pooling            partial sums, bounded by the observed ranges
    LRN, Softmax, ReduceLogSumExp                     sums of squares or of exponentials, bounded likewise

Convolutions and matrix products accumulate in FP32 on every engine. Where a dimension that is summed has no fixed size,
the partial sums are not bounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from deploykit.core.graph_edit import read_constant
from deploykit.core.values import Range
from deploykit.quantize.formats import Format

SQUARING: Final = frozenset({"ReduceL2", "LpNormalization", "LpPool", "GlobalLpPool"})
TAKING_LOGARITHMS: Final = frozenset({"LogSoftmax", "ReduceLogSum"})
NORMALIZING: Final = frozenset({"InstanceNormalization", "BatchNormalization"})
"""Operators that divide by the root of a variance plus ε in the type of their input."""

STASHING: Final = frozenset({"LayerNormalization", "RMSNormalization", "GroupNormalization"})
"""Operators whose attribute `stash_type` says in which type they normalize; float32 by default."""

AVERAGING: Final = frozenset({"ReduceMean", "AveragePool", "GlobalAveragePool"})
EXPONENTIATING: Final = frozenset({"Softmax", "ReduceLogSumExp"})
"""Operators that add up exponentials of at most 1."""

BOUNDED: Final = AVERAGING | EXPONENTIATING | {"ReduceSum", "LRN"}
"""Operators whose sums the observed ranges bound."""


def explain_hidden_value(node: ir.Node, ranges: Mapping[str, Range], to: Format) -> str | None:
    """Why a number inside the operator may not fit the type, though inputs and outputs do; None: it fits."""
    if node.domain:
        return None
    if to.narrows_exponent and node.op_type in SQUARING:
        return f"{node.op_type} adds up powers, which {to.name} holds of few numbers"
    if to.narrows_exponent and node.op_type in TAKING_LOGARITHMS:
        return f"{node.op_type} takes the logarithm of what {to.name} may round to zero"
    return _explain_epsilon(node, to) or _explain_sum(node, ranges, to)


def _explain_epsilon(node: ir.Node, to: Format) -> str | None:
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    if node.op_type in STASHING:
        if node.attributes.get_int("stash_type", ir.DataType.FLOAT.value) != ir.DataType.FLOAT.value:
            return f"{node.op_type} would normalize in {to.name}"
        return f"its epsilon {epsilon:g} vanishes in {to.name}" if 0 < epsilon < to.smallest else None
    if node.op_type not in NORMALIZING or not 0 < epsilon < to.smallest_normal:
        return None
    return f"its epsilon {epsilon:g} is below {to.name}'s normal range (from {to.smallest_normal:.3g})"


def _explain_sum(node: ir.Node, ranges: Mapping[str, Range], to: Format) -> str | None:
    if node.op_type not in BOUNDED:
        return None
    count, bound = _count_terms(node), None
    source, result = (ranges.get(value.name or "") if value else None for value in (node.inputs[0], node.outputs[0]))
    if count is None or source is None:
        return None
    if node.op_type in EXPONENTIATING:
        bound = float(count)
    elif node.op_type == "LRN":
        bound = count * max(source.low**2, source.high**2)
    elif result is not None:
        whole = count if node.op_type in AVERAGING else 1
        bound = _bound_partial_sums(count, source, Range(whole * result.low, whole * result.high))
    if bound is None or not to.exceeded_by(bound):
        return None
    return f"its sum of {count} terms may reach {bound:.4g}, beyond ±{to.largest:g}"


def _bound_partial_sums(count: int, term: Range, whole: Range) -> float:
    """The largest magnitude of a sum of some of the terms, whatever their order.

    The positive terms add up to at most count · high, and to at most the whole sum less the sum of the negative terms,
    which is at least count · low; the negative terms likewise.
    """
    low, high = min(term.low, 0.0), max(term.high, 0.0)
    positive = min(count * high, whole.high - count * low)
    negative = max(count * low, whole.low - count * high)
    return max(positive, -negative)


def _count_terms(node: ir.Node) -> int | None:
    """How many numbers one sum of the operator has; None where the graph does not fix it."""
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    if node.op_type == "LRN":
        return node.attributes.get_int("size", 1)
    if node.op_type == "AveragePool":
        return math.prod(node.attributes.get_ints("kernel_shape", ()))
    if shape is None:
        return None
    axes = _list_axes(node, len(shape))
    if axes is None:
        return None
    sizes = [shape[axis] for axis in axes]
    fixed = [size for size in sizes if isinstance(size, int)]
    return math.prod(fixed) if len(fixed) == len(sizes) else None


def _list_axes(node: ir.Node, rank: int) -> list[int] | None:
    """The dimensions over which the operator sums; None where it does not, or where they are not constant."""
    if node.op_type == "GlobalAveragePool":
        return list(range(2, rank))
    if node.op_type == "Softmax":
        return [node.attributes.get_int("axis", -1)]
    if node.op_type not in {"ReduceMean", "ReduceSum", "ReduceLogSumExp"}:
        return None
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes", ()))
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    axes = read_constant(node.inputs[1])
    return None if axes is None else [int(axis) for axis in axes]
