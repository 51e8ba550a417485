"""Every tensor says its shape, as far as it follows from the others'.

Exporters leave it out inside what they spell out: a Linear of three axes becomes a MatMul and an Add, and only the sum
has a shape. Whoever weighs layers by their work (precision receipts) needs it.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.values import Rewrite


def apply(model: ir.Model) -> Rewrite:
    """Run ONNX's shape inference where a shape is missing, and count the tensors that got one.

    What does not follow from the others' shapes stays without; nothing is refused.
    """
    before = _missing(model)
    if before:
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    return Rewrite("infer_shapes", before - _missing(model))


def _missing(model: ir.Model) -> int:
    return sum(output.shape is None for node in model.graph for output in node.outputs)
