"""Replaces a Reshape that joins all axes after the batch by Flatten.

    Reshape(x, [N, C·H·W])  →  Flatten(x, axis=1)          x: (N, C, H, W), output: (N, C·H·W)

Exporters compute the target shape from the batch (Shape, Squeeze, Concat). These nodes become unused with the Reshape:
the only integer arithmetic in a classifier's graph.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from deploykit.core.graph_edit import bypass_node, insert_node_before
from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Replace every Reshape of (N, C, H, W) that keeps the batch and joins the other axes, and count them.

    One that does anything else, or whose sizes after the batch are not all known, is skipped. Reshapes of tensors that
    are not known to have four axes are not considered.
    """
    applied, skip_reasons = 0, []
    for node in [node for node in model.graph if node.op_type == "Reshape" and _is_image(node.inputs[0])]:
        if not _joins_all_but_the_batch(node):
            skip_reasons.append(f"{node.name}: does more than join the axes after the batch")
            continue
        flat = insert_node_before(node, ir.node("Flatten", [node.inputs[0]], {"axis": 1}))
        flat.shape, flat.type = node.outputs[0].shape, node.outputs[0].type
        bypass_node(node, flat)
        applied += 1
    return Rewrite("canonical_flatten", applied, tuple(skip_reasons))


def _is_image(value: ir.Value | None) -> bool:
    """Whether it has four axes; shape arithmetic reshapes small integer tensors, which are not meant."""
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
