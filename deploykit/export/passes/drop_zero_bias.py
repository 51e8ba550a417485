"""Removes the bias of a convolution where it is zero.

    W∗x + 0 = W∗x          Conv and ConvTranspose, whose bias of shape (C_out,) is optional

PyTorch's exporter writes zeros for every convolution made with `bias=False`; the graph would hold more constants than
the module. Gemm keeps its bias: runtimes fuse it at no cost, and some parsers require one. onnxscript's rules do the
rewrite; they rename the nodes, but keep the module paths from which `names` names them again.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Remove the bias of every Conv and ConvTranspose where it is a constant of zeros, and count them."""
    from onnxscript.rewriter import RewriteRuleSet  # not needed to read or run graphs
    from onnxscript.rewriter.rules import common

    rules = [common.remove_optional_bias_from_conv_rule, common.remove_optional_bias_from_conv_transpose_rule]
    return Rewrite("drop_zero_bias", RewriteRuleSet(rules).apply_to_model(model))
