"""Removes Dropout, which is the identity outside training.

    Dropout(x)  →  x      any shape; where training_mode is not set and nothing reads the mask

PyTorch's exporters omit it in eval mode; older files and those of other tools contain it.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.graph_edit import bypass_node, read_constant
from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Remove every Dropout, and count them.

    One is skipped if its mask is read, if its training_mode is set or computed, or if it directly connects a graph
    input to a graph output.
    """
    applied, skip_reasons = 0, []
    for node in [node for node in model.graph if node.op_type == "Dropout" and not node.domain]:
        if reason := _skip_reason(node):
            skip_reasons.append(f"{node.name}: {reason}")
            continue
        source = node.inputs[0]
        assert source is not None
        bypass_node(node, source)
        applied += 1
    return Rewrite("drop_dropout", applied, tuple(skip_reasons))


def _skip_reason(node: ir.Node) -> str | None:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "its mask is read"
    training = node.inputs[2] if len(node.inputs) > 2 else None
    mode = read_constant(training)
    if training is not None and (mode is None or bool(mode)):
        return "it may run in training mode"
    if node.outputs[0].is_graph_output() and node.inputs[0] is not None and node.inputs[0].is_graph_input():
        return "it directly connects a graph input to a graph output"
    return None
