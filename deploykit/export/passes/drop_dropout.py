"""Dropout does nothing outside training.

    Dropout(x)  →  x      where training_mode is not set and nothing reads the mask

PyTorch's exporters leave it out of an eval-mode graph by themselves; older files and those of other tools have it.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import bypass, constant


def apply(model: ir.Model) -> Rewrite:
    """Take out every Dropout, and count them.

    Refused is one whose mask is read, one whose training_mode is set or computed, and one that alone lies between an
    input of the graph and an output.
    """
    applied, refused = 0, []
    for node in [node for node in model.graph if node.op_type == "Dropout" and not node.domain]:
        if reason := _obstacle(node):
            refused.append(f"{node.name}: {reason}")
            continue
        source = node.inputs[0]
        assert source is not None
        bypass(node, source)
        applied += 1
    return Rewrite("drop_dropout", applied, tuple(refused))


def _obstacle(node: ir.Node) -> str | None:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "its mask is read"
    training = node.inputs[2] if len(node.inputs) > 2 else None
    mode = constant(training)
    if training is not None and (mode is None or bool(mode)):
        return "it may be training"
    if node.outputs[0].is_graph_output() and node.inputs[0] is not None and node.inputs[0].is_graph_input():
        return "it is all that the graph does"
    return None
