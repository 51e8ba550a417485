"""Nothing in the graph that does nothing: no Identity, no node computed twice, no dead node, no unread weight.

onnx-ir's own passes, in the order in which one uncovers work for the next.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Run those passes, and count the nodes that went; none of them refuses."""
    before = len(model.graph)
    common.IdentityEliminationPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.TopologicalSortPass()(model)
    return Rewrite("clean", before - len(model.graph))
