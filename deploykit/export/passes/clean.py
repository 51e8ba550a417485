"""Removes Identity nodes, duplicate nodes, unused nodes, unused initializers and unused functions.

    Identity(x)            →  x
    a = f(x)  b = f(x)     →  a = f(x), read twice

These are onnx-ir's passes, ordered so that each removes what the previous one made redundant.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Run the passes, and count the removed nodes. None is skipped."""
    before = len(model.graph)
    common.IdentityEliminationPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.TopologicalSortPass()(model)
    return Rewrite("clean", before - len(model.graph))
