"""ReduceMean over height and width is GlobalAveragePool, and says so; an average over 1×1 windows is nothing at all.

    mean_{h,w} x[n,c,h,w]   keepdims=1  →  GlobalAveragePool          keepdims=0  →  GlobalAveragePool, Flatten
    AveragePool(x, kernel 1×1, stride 1)  →  x        (VGG's adaptive pooling, at the size that it was trained for)

Runtimes and quantizers recognise the pooling; and ReduceMean changed its signature in opset 18, which pooling did not.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import bypass, constant, insert_before


def apply(model: ir.Model) -> Rewrite:
    """Replace means over height and width, take out averages over 1×1 windows, and count both.

    A mean over other axes, or of a tensor that is not known to have four, is refused; so is a pooling at both of whose
    ends the graph's own names stand.
    """
    applied, refused = 0, []
    for node in [node for node in model.graph if node.op_type == "ReduceMean"]:
        source, axes = node.inputs[0], _axes(node)
        if source is None or source.shape is None or len(source.shape) != 4 or axes != {2, 3}:
            refused.append(f"{node.name}: reduces axes {sorted(axes or ())}, not height and width of N×C×H×W")
            continue
        pooled = insert_before(node, ir.node("GlobalAveragePool", [source]))
        pooled.type = source.type
        pooled.shape = ir.Shape([*source.shape[:2], 1, 1])
        if node.attributes.get_int("keepdims", 1) == 0:
            pooled = insert_before(node, ir.node("Flatten", [pooled], {"axis": 1}))
        bypass(node, pooled)
        applied += 1
    for node in [node for node in model.graph if node.op_type == "AveragePool" and _is_identity(node)]:
        source = node.inputs[0]
        assert source is not None
        if node.outputs[0].is_graph_output() and (source.is_graph_input() or source.is_graph_output()):
            refused.append(f"{node.name}: both its ends have names that applications use")
            continue
        bypass(node, source)
        applied += 1
    return Rewrite("canonical_pool", applied, tuple(refused))


def _is_identity(node: ir.Node) -> bool:
    ones = all(set(node.attributes.get_ints(name, (1, 1))) == {1} for name in ("kernel_shape", "strides"))
    return ones and not any(node.attributes.get_ints("pads", ()))


def _axes(node: ir.Node) -> set[int] | None:
    """The axes as non-negative numbers of a rank-4 tensor: an input since opset 18, an attribute before."""
    held = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get_ints("axes", None) if held is None else held.reshape(-1).tolist()
    return None if axes is None else {int(axis) % 4 for axis in axes}
