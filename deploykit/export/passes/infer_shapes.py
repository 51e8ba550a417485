"""Adds missing shapes of intermediate tensors.

    MatMul((N, T, C), (C, D))  →  output: (N, T, D)

Exporters omit them inside decomposed modules: a Linear on three axes becomes MatMul and Add, and only the Add's output
has a shape. Precision receipts weight layers by their multiply-accumulates, and need all shapes.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Run ONNX's shape inference if any shape is missing, and count the tensors that got one. None is skipped.

    A shape that cannot be inferred stays missing.
    """
    before = _count_missing_shapes(model)
    if before:
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    return Rewrite("infer_shapes", before - _count_missing_shapes(model))


def _count_missing_shapes(model: ir.Model) -> int:
    return sum(output.shape is None for node in model.graph for output in node.outputs)
