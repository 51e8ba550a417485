"""Bounds of Clip outside a 16-bit type, which exporters write for "no bound": torch.clamp(min=0) becomes a Clip to at
most 3.4e38.

No finite number of the type reaches such a bound, so the Clip does the same without it, and ONNX lets it be absent.
Rounding the bound to ±65504 would hide an overflow that ±∞ shows. A bound that does change values (a minimum of 1e5) is
checked like any other constant.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.core.graph_edit import read_constant
from deploykit.quantize.formats import Format

MINIMUM, MAXIMUM = 1, 2
"""Positions of the bounds among Clip's inputs."""


def is_unreachable_bound(node: ir.Node, position: int, to: Format) -> bool:
    """Whether the input at `position` is a bound that no finite number of the type reaches."""
    if node.op_type != "Clip" or node.domain != "" or position not in (MINIMUM, MAXIMUM):
        return False
    bound = read_constant(node.inputs[position])
    if bound is None or bound.size != 1:
        return False
    return bool(bound.item() < -to.largest if position == MINIMUM else bound.item() > to.largest)


def drop_unreachable_bounds(node: ir.Node, to: Format) -> None:
    """Remove the bounds of a Clip that no finite number of the type reaches."""
    for position in range(len(node.inputs)):
        if is_unreachable_bound(node, position, to):
            node.replace_input_with(position, None)
