"""A cast to another tensor's type is a Cast, or nothing.

CastLike(x, y)  →  Cast(x, to = type of y)
CastLike(x, y)  →  x                         where both have the same type

Normalizations that an exporter spells out are full of them; not every runtime has the operator.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import bypass, insert_before


def apply(model: ir.Model) -> Rewrite:
    """Replace every CastLike whose two types are known, and count them; the others are refused, each by its name."""
    applied, refused = 0, []
    for node in [node for node in model.graph if node.op_type == "CastLike" and not node.domain]:
        value, like = node.inputs[:2]
        if value is None or like is None or value.dtype is None or like.dtype is None:
            refused.append(f"{node.name}: its types are not known")
            continue
        bypass(node, value if value.dtype == like.dtype else _cast(node, value, like.dtype))
        applied += 1
    return Rewrite("canonical_cast", applied, tuple(refused))


def _cast(node: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    cast = insert_before(node, ir.node("Cast", [value], {"to": wanted.value}))
    cast.shape, cast.type = node.outputs[0].shape, ir.TensorType(wanted)
    return cast
