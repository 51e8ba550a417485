"""A bias of zeros is no bias.

    W∗x + 0 = W∗x          for Conv and ConvTranspose, whose bias is optional

PyTorch's exporter writes zeros for every convolution made with `bias=False`; with them the graph would hold more than
the module does. Gemm keeps its bias: runtimes fuse it for nothing, and some parsers want one.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import constant


def apply(model: ir.Model) -> Rewrite:
    """Take the bias from every Conv and ConvTranspose where it is a constant of zeros, and count them.

    Any other bias is no candidate, and nothing is refused.
    """
    applied = 0
    for node in model.graph:
        if node.op_type not in {"Conv", "ConvTranspose"} or len(node.inputs) < 3:
            continue
        bias = constant(node.inputs[2])
        if bias is not None and not bias.any():
            node.resize_inputs(2)
            applied += 1
    return Rewrite("drop_zero_bias", applied)
