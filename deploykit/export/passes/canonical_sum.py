"""Replaces Sum by a chain of Adds, the usual form of residual connections.

Sum(a, b, c)  →  Add(Add(a, b), c)             any shapes that broadcast
Sum(a)        →  a
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.graph_edit import bypass_node, insert_node_before
from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Replace every Sum, and count them. None is skipped."""
    sums = [node for node in model.graph if node.op_type == "Sum" and not node.domain]
    for node in sums:
        terms = [value for value in node.inputs if value is not None]
        total = terms[0]
        for term in terms[1:]:
            total = insert_node_before(node, ir.node("Add", [total, term]))
            total.shape, total.type = node.outputs[0].shape, node.outputs[0].type
        bypass_node(node, total)
    return Rewrite("canonical_sum", len(sums))
