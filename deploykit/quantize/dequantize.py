"""Values behind a DequantizeLinear: no larger than their codes times their scale, whatever the samples.

That bound takes the place of an observed range, since the pairs are put in after the network was observed. The node
has no precision of its own: it restores to the type that its readers want, through its scale.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.quantize.constants import constant
from deploykit.quantize.placement import COMMUTING


def scale(node: ir.Node | None) -> NDArray[np.float32] | None:
    """The scale of a DequantizeLinear, where it is a float32 constant; None for any other node."""
    if node is None or node.op_type != "DequantizeLinear" or node.domain != "":
        return None
    array = constant(node.inputs[1])
    return array if array is not None and array.dtype == np.float32 else None


def bound(node: ir.Node) -> float | None:
    """The largest magnitude that a DequantizeLinear with a constant scale can give; None: its codes have no bound."""
    steps, scales = _steps(node), scale(node)
    return None if steps is None or scales is None else steps * float(np.max(np.abs(scales), initial=0.0))


def carries_codes(node: ir.Node) -> bool:
    """Whether a MaxPool or Concat stands between pairs on all sides. It only arranges codes, and runtimes run it on
    them. So it stays as it is, at the price of no Cast: with float16 scales around a Concat, ONNX Runtime 1.31 makes a
    QLinearConcat that it then refuses to load.
    """
    producers = [None if value is None else value.producer() for value in node.inputs]
    uses = [use for output in node.outputs for use in output.uses()]
    return (
        node.op_type in COMMUTING
        and all(scale(producer) is not None for producer in producers)
        and all(use.node.op_type == "QuantizeLinear" and use.idx == 0 for use in uses)
        and not any(output.is_graph_output() for output in node.outputs)
    )


def _steps(node: ir.Node) -> int | None:
    """The largest distance of a code from the zero point: 128 for int8 around 0."""
    codes = node.inputs[0]
    if codes is None or codes.dtype is None or not codes.dtype.is_integer():
        return None
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    zeros = np.zeros(1, np.int64) if zero_point is None else constant(zero_point)
    if zeros is None:
        return None
    held = constant(codes)
    low, high = (codes.dtype.min, codes.dtype.max) if held is None else (held.min(), held.max())
    wide = zeros.astype(np.int64)
    return max(int(high) - int(wide.min()), int(wide.max()) - int(low))
