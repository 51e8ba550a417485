"""Replaces ReduceMean over height and width by GlobalAveragePool, and removes average pooling over 1×1 windows.

    ReduceMean(x, axes=(2, 3), keepdims=1)  →  GlobalAveragePool(x)             x: (N, C, H, W), output: (N, C, 1, 1)
    ReduceMean(x, axes=(2, 3), keepdims=0)  →  Flatten(GlobalAveragePool(x))    output: (N, C)
    AveragePool(x, kernel 1×1, stride 1)    →  x        VGG's adaptive pooling at the input size of its training

Runtimes and quantizers recognize the pooling operator, and its signature is the same at every opset; that of ReduceMean
changed at 18.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.graph_edit import bypass_node, insert_node_before, read_constant
from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Replace means over height and width, remove averages over 1×1 windows, and count both.

    A mean over other axes, or of a tensor that is not known to have four, is skipped; so is a 1×1 pooling whose input
    and output both belong to the graph's interface.
    """
    applied, skip_reasons = 0, []
    for node in [node for node in model.graph if node.op_type == "ReduceMean"]:
        source, axes = node.inputs[0], _reduced_axes(node)
        if source is None or source.shape is None or len(source.shape) != 4 or axes != {2, 3}:
            skip_reasons.append(f"{node.name}: reduces axes {sorted(axes or ())}, not height and width of N×C×H×W")
            continue
        pooled = insert_node_before(node, ir.node("GlobalAveragePool", [source]))
        pooled.type = source.type
        pooled.shape = ir.Shape([*source.shape[:2], 1, 1])
        if node.attributes.get_int("keepdims", 1) == 0:
            pooled = insert_node_before(node, ir.node("Flatten", [pooled], {"axis": 1}))
        bypass_node(node, pooled)
        applied += 1
    for node in [node for node in model.graph if node.op_type == "AveragePool" and _is_identity(node)]:
        source = node.inputs[0]
        assert source is not None
        if node.outputs[0].is_graph_output() and (source.is_graph_input() or source.is_graph_output()):
            skip_reasons.append(f"{node.name}: its input and output are both part of the graph's interface")
            continue
        bypass_node(node, source)
        applied += 1
    return Rewrite("canonical_pool", applied, tuple(skip_reasons))


def _is_identity(node: ir.Node) -> bool:
    ones = all(set(node.attributes.get_ints(name, (1, 1))) == {1} for name in ("kernel_shape", "strides"))
    return ones and not any(node.attributes.get_ints("pads", ()))


def _reduced_axes(node: ir.Node) -> set[int] | None:
    """The reduced axes of a rank-4 tensor, non-negative: an input since opset 18, an attribute before."""
    constant = read_constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get_ints("axes", None) if constant is None else constant.reshape(-1).tolist()
    return None if axes is None else {int(axis) % 4 for axis in axes}
