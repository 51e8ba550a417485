"""Outputs of DequantizeLinear: bounded by the largest code times the scale, whatever the samples.

That bound replaces an observed range, since Q/DQ pairs are inserted after calibration. The node has no precision of its
own: its scale gives it the type of its readers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.graph_edit import read_constant
from deploykit.quantize.placement import COMMUTING


def read_scale(node: ir.Node | None) -> NDArray[np.float32] | None:
    """The scale of a DequantizeLinear, where it is a float32 constant; None for any other node."""
    if node is None or node.op_type != "DequantizeLinear" or node.domain != "":
        return None
    array = read_constant(node.inputs[1])
    return array if array is not None and array.dtype == np.float32 else None


def largest_magnitude(node: ir.Node) -> float | None:
    """The largest magnitude that a DequantizeLinear can return; None where its codes or its scale are not bounded."""
    code, scales = _largest_code(node), read_scale(node)
    return None if code is None or scales is None else code * float(np.max(np.abs(scales), initial=0.0))


def is_quantized_passthrough(node: ir.Node) -> bool:
    """Whether a MaxPool or Concat has Q/DQ pairs at all inputs and outputs, so that runtimes run it on the codes.

    It stays float32, which needs no Cast: with float16 scales around a Concat, ONNX Runtime 1.31 makes a QLinearConcat
    that it then refuses to load.
    """
    producers = [None if value is None else value.producer() for value in node.inputs]
    uses = [use for output in node.outputs for use in output.uses()]
    return (
        node.op_type in COMMUTING
        and all(read_scale(producer) is not None for producer in producers)
        and all(use.node.op_type == "QuantizeLinear" and use.idx == 0 for use in uses)
        and not any(output.is_graph_output() for output in node.outputs)
    )


def _largest_code(node: ir.Node) -> int | None:
    """The largest distance of a code from the zero point: 128 for int8 around 0."""
    codes = node.inputs[0]
    if codes is None or codes.dtype is None or not codes.dtype.is_integer():
        return None
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    zeros = np.zeros(1, np.int64) if zero_point is None else read_constant(zero_point)
    if zeros is None:
        return None
    constant = read_constant(codes)
    low, high = (codes.dtype.min, codes.dtype.max) if constant is None else (constant.min(), constant.max())
    wide = zeros.astype(np.int64)
    return max(int(high) - int(wide.min()), int(wide.max()) - int(low))
