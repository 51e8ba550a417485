"""Folds BatchNormalization into the convolution before it.

    y = γ·(W∗x + b − μ)/√(σ² + ε) + β  =  (s·W)∗x + (s·(b − μ) + β)        with s = γ/√(σ² + ε)

    W: (C_out, C_in/groups, kH, kW), scaled along its first axis; s, γ, β, μ, σ², b: (C_out,)

Exact in real arithmetic; computed in float64 and rounded once. Anything in between prevents it: a BatchNorm after a
Concat (DenseNet's pre-activation) normalizes tensors that other layers read too, and stays.

Convolutions may share W, as the heads of RTMDet and EfficientDet do, with a BatchNorm of its own for every scale of the
image. Each gets a weight of its own then: the file grows by a copy for each.

onnxscript's rule of the same purpose computes in float32, gives the result the BatchNorm's module path instead of the
convolution's, and does not report why it skipped a node.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.graph_edit import add_initializer, bypass_node, has_single_use, read_constant, set_initializer
from deploykit.core.values import Rewrite
from deploykit.export.contract import initializer_bytes


def apply(model: ir.Model) -> Rewrite:
    """Fold every BatchNormalization that has no `skip_reason`, and count them. The others are skipped."""
    applied, skip_reasons, bytes_before = 0, [], initializer_bytes(model)
    for norm in [node for node in model.graph if node.op_type == "BatchNormalization"]:
        if (reason := skip_reason(norm)) is None:
            fold_into_conv(norm)
            applied += 1
        else:
            skip_reasons.append(f"{norm.name}: {reason}")
    added = max(0, initializer_bytes(model) - bytes_before)
    return Rewrite("fold_batchnorm", applied, tuple(skip_reasons), added)


def skip_reason(norm: ir.Node) -> str | None:
    """Why this BatchNormalization cannot be folded; None where it can."""
    source = norm.inputs[0]
    assert source is not None
    if norm.attributes.get_int("training_mode", 0) == 1:
        return "it is in training mode and normalizes with the statistics of each batch"
    conv = source.producer()
    if conv is None or conv.op_type != "Conv":
        return f"its input comes from {conv.op_type if conv else 'the graph input'}, not from a convolution"
    if not has_single_use(source):
        return "the convolution's output has other readers"
    if any(value is not None and read_constant(value) is None for value in conv.inputs[1:]):
        return "the convolution's weights depend on the input"
    if any(read_constant(value) is None for value in norm.inputs[1:5]):
        return "its statistics are not constants"
    return None


def fold_into_conv(norm: ir.Node) -> None:
    """Fold a BatchNormalization without `skip_reason` into weight and bias of its convolution, and remove it."""
    source = norm.inputs[0]
    assert source is not None
    conv = source.producer()
    assert conv is not None
    gamma, beta, mean, variance = (np.asarray(read_constant(value), np.float64) for value in norm.inputs[1:5])
    weight = np.asarray(read_constant(conv.inputs[1]))
    conv_bias = read_constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    bias = np.zeros_like(mean) if conv_bias is None else conv_bias.astype(np.float64)
    s = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    folded = weight * s.reshape(-1, *[1] * (weight.ndim - 1))  # s: (C_out, 1, 1, 1)
    weight_name = conv.inputs[1].name or ""  # type: ignore[union-attr]
    _set_own_initializer(conv, 1, folded.astype(weight.dtype), weight_name)
    bias_name = weight_name.removesuffix("weight") + "bias"
    _set_own_initializer(conv, 2, (s * (bias - mean) + beta).astype(weight.dtype), bias_name)
    bypass_node(norm, conv.outputs[0])


def _set_own_initializer(node: ir.Node, position: int, array: NDArray[Any], name: str) -> None:
    """Replace the constant at input `position`; where other nodes read it too, they keep it."""
    current = node.inputs[position] if position < len(node.inputs) else None
    if current is None or (current.is_initializer() and has_single_use(current)):
        set_initializer(node, position, array, name)
        return
    assert node.graph is not None
    node.replace_input_with(position, add_initializer(node.graph, current.name or name, array))
