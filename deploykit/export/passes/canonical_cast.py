"""Replaces CastLike by Cast, or removes it.

    CastLike(x, y)  →  Cast(x, to = type of y)     any shapes; the output has the shape of x
    CastLike(x, y)  →  x                           where both have the same type

Exporters write CastLike when they decompose normalizations; not every runtime supports it.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.graph_edit import bypass_node, insert_node_before
from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Replace every CastLike, and count them. One whose types are not both known is skipped."""
    applied, skip_reasons = 0, []
    for node in [node for node in model.graph if node.op_type == "CastLike" and not node.domain]:
        value, like = node.inputs[:2]
        if value is None or like is None or value.dtype is None or like.dtype is None:
            skip_reasons.append(f"{node.name}: its types are not known")
            continue
        bypass_node(node, value if value.dtype == like.dtype else _insert_cast(node, value, like.dtype))
        applied += 1
    return Rewrite("canonical_cast", applied, tuple(skip_reasons))


def _insert_cast(node: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    cast = insert_node_before(node, ir.node("Cast", [value], {"to": wanted.value}))
    cast.shape, cast.type = node.outputs[0].shape, ir.TensorType(wanted)
    return cast
