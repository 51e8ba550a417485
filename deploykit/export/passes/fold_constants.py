"""Computes at export what does not depend on the input.

    Expand(Cast(1), Shape(w))  →  initializer of the shape of w
    Concat(Shape(x)[0], 512)   →  unchanged: it depends on the batch

onnxscript evaluates the nodes, onnx-ir turns Constant nodes into initializers: then a graph has one kind of constant.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Fold constants, remove the nodes that become unused, and count the removed nodes. None is skipped."""
    from onnxscript.optimizer import fold_constants  # not needed to read or run graphs

    before = len(model.graph)
    fold_constants(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    return Rewrite("fold_constants", before - len(model.graph))
