"""A Reshape that only joins all axes behind the batch is Flatten.

    Reshape(x[n,c,h,w], [n, c·h·w])  →  Flatten(axis=1)

Exporters compute the target shape from the batch (Shape, Squeeze, Concat); that small program goes with it, and with
it the only integer arithmetic that a classifier's graph has.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import bypass, insert_before


def apply(model: ir.Model) -> Rewrite:
    """Replace every Reshape of N×C×H×W that keeps the batch and joins the rest, and count them.

    One that does anything else, or whose sizes behind the batch are not all known, is refused. Reshapes of tensors that
    are not known to have four axes are no candidates.
    """
    applied, refused = 0, []
    for node in [node for node in model.graph if node.op_type == "Reshape" and _is_image(node.inputs[0])]:
        if not _joins_all_but_the_batch(node):
            refused.append(f"{node.name}: does more than joining the axes behind the batch")
            continue
        flat = insert_before(node, ir.node("Flatten", [node.inputs[0]], {"axis": 1}))
        flat.shape, flat.type = node.outputs[0].shape, node.outputs[0].type
        bypass(node, flat)
        applied += 1
    return Rewrite("canonical_flatten", applied, tuple(refused))


def _is_image(value: ir.Value | None) -> bool:
    """Whether it is N×C×H×W; the shape arithmetic around it reshapes small integer tensors, which are no concern."""
    return value is not None and value.shape is not None and len(value.shape) == 4


def _joins_all_but_the_batch(node: ir.Node) -> bool:
    source, target = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or target.shape is None:
        return False
    rest, joined = source.shape[1:], target.shape[1:]
    sizes = [size for size in (*rest, *joined) if isinstance(size, int)]
    if len(joined) != 1 or len(sizes) != len(rest) + 1:
        return False
    return source.shape[0] == target.shape[0] and math.prod(sizes[:-1]) == sizes[-1]
