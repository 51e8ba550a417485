"""A Sum of several tensors is a chain of Adds, which is what residual connections are written as today.

Sum(a, b, c)  →  Add(Add(a, b), c)
Sum(a)        →  a
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import bypass, insert_before


def apply(model: ir.Model) -> Rewrite:
    """Replace every Sum, whatever the number of its terms, and count them; none is refused."""
    sums = [node for node in model.graph if node.op_type == "Sum" and not node.domain]
    for node in sums:
        terms = [value for value in node.inputs if value is not None]
        total = terms[0]
        for term in terms[1:]:
            total = insert_before(node, ir.node("Add", [total, term]))
            total.shape, total.type = node.outputs[0].shape, node.outputs[0].type
        bypass(node, total)
    return Rewrite("canonical_sum", len(sums))
