"""Replaces ConstantOfShape with a constant shape by an initializer.

    ConstantOfShape(shape=[C_out, C_in, kH, kW])  →  initializer of shape (C_out, C_in, kH, kW)

onnxscript's constant folding leaves ConstantOfShape as it is, to keep files small; but only an initializer can be
quantized or refitted.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploykit.core.graph_edit import add_initializer, read_constant
from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Replace every ConstantOfShape whose shape is a constant, and count them.

    One whose shape depends on the input, or that is a graph output, is not considered.
    """
    graph, applied = model.graph, 0
    for node in [node for node in graph if node.op_type == "ConstantOfShape" and not node.domain]:
        shape = read_constant(node.inputs[0])
        if shape is None or node.outputs[0].is_graph_output():
            continue
        value = node.attributes.get("value")
        number = value.as_tensor().numpy().reshape(()) if value is not None else np.float32(0)
        output = node.outputs[0]
        array = np.full(tuple(int(size) for size in shape), number)
        output.replace_all_uses_with(add_initializer(graph, output.name or "", array))
        graph.remove(node, safe=True)
        applied += 1
    return Rewrite("constant_fill", applied)
