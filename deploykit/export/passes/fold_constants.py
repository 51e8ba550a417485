"""Compute what does not depend on the input once, at export.

    Concat(Shape(x)[0], 512)  →  stays (it depends on the batch)
    Expand(Cast(1), Shape(w)) →  an initializer

onnxscript's evaluator does the folding; Constant nodes become initializers, so that a graph has one kind of constant.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Fold what can be folded, take out what nobody reads then, and count the nodes that went; none is refused.

    Needs onnxscript.
    """
    from onnxscript.optimizer import fold_constants  # who looks into graphs need not install it

    before = len(model.graph)
    fold_constants(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    return Rewrite("fold_constants", before - len(model.graph))
