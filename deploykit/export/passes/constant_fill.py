"""A tensor that is filled with one number whatever the input is, is an initializer.

    ConstantOfShape([64, 3, 7, 7])  →  a weight

Constant folding leaves large ones as they are, to keep files small; but a weight that no file holds is one that nobody
can quantize or refit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import constant


def apply(model: ir.Model) -> Rewrite:
    """Replace every ConstantOfShape whose shape is a constant, and count them.

    One whose shape follows from the input stays, and so does one that is an output of the graph; neither is a refusal.
    """
    graph, applied = model.graph, 0
    for node in [node for node in graph if node.op_type == "ConstantOfShape" and not node.domain]:
        shape = constant(node.inputs[0])
        if shape is None or node.outputs[0].is_graph_output():
            continue  # the shape depends on the input
        value = node.attributes.get("value")
        number = value.as_tensor().numpy().reshape(()) if value is not None else np.float32(0)
        old = node.outputs[0]
        array = np.full(tuple(int(size) for size in shape), number)
        tensor = ir.tensor(array, name=old.name)
        new = ir.Value(name=old.name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        old.replace_all_uses_with(new)
        graph.remove(node, safe=True)
        graph.register_initializer(new)
        applied += 1
    return Rewrite("constant_fill", applied)
