"""Conv → BatchNormalization becomes Conv.

    y = γ·(W∗x + b − μ)/√(σ² + ε) + β  =  (s·W)∗x + (s·(b − μ) + β)        with s = γ/√(σ² + ε), per output channel

Exact in real arithmetic; computed here in float64 and rounded once. It does not apply across anything in between: a
BatchNorm behind a Concat (DenseNet's pre-activation) normalises tensors that other layers read too, and stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes.graph_edit import bypass, constant, private, read_only_here, set_weight


def apply(model: ir.Model) -> Rewrite:
    """Fold every BatchNormalization that has no `obstacle`, and count them; the others are refused, with theirs."""
    applied, refused = 0, []
    for norm in [node for node in model.graph if node.op_type == "BatchNormalization"]:
        if (reason := obstacle(norm)) is None:
            fold(norm)
            applied += 1
        else:
            refused.append(f"{norm.name}: {reason}")
    return Rewrite("fold_batchnorm", applied, tuple(refused))


def obstacle(norm: ir.Node) -> str | None:
    """Why this BatchNormalization stays; None: it folds."""
    source = norm.inputs[0]
    assert source is not None
    if norm.attributes.get_int("training_mode", 0) == 1:
        return "it is in training mode and normalises with each batch's own statistics"
    conv = source.producer()
    if conv is None or conv.op_type != "Conv":
        return f"its input comes from {conv.op_type if conv else 'the graph input'}, not from a convolution"
    if not read_only_here(source):
        return "the convolution's output has other readers"
    if not private(conv.inputs[1]) or (len(conv.inputs) > 2 and not private(conv.inputs[2])):
        return "the convolution's weights are shared or computed"
    if any(constant(value) is None for value in norm.inputs[1:5]):
        return "its statistics are not constants"
    return None


def fold(norm: ir.Node) -> None:
    """Put a BatchNormalization that has no `obstacle` into the weight and the bias of its convolution."""
    source = norm.inputs[0]
    assert source is not None
    conv = source.producer()
    assert conv is not None
    gamma, beta, mean, variance = (np.asarray(constant(value), np.float64) for value in norm.inputs[1:5])
    weight = np.asarray(constant(conv.inputs[1]))
    held = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    bias = np.zeros_like(mean) if held is None else held.astype(np.float64)
    s = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    folded = weight * s.reshape(-1, *[1] * (weight.ndim - 1))
    weight_name = conv.inputs[1].name or ""  # type: ignore[union-attr]
    set_weight(conv, 1, folded.astype(weight.dtype), weight_name)
    set_weight(conv, 2, (s * (bias - mean) + beta).astype(weight.dtype), weight_name.removesuffix("weight") + "bias")
    bypass(norm, conv.outputs[0])
