"""Clip's bounds that lie beyond a 16-bit type, which exporters write for "no bound": torch.clamp(min=0) becomes a Clip
to at most 3.4e38.

No finite number of the type is beyond such a bound, so that the Clip does the same without it, and ONNX lets it be
absent. To round the bound would be right too as long as values stay finite, but ±65504 would hide an overflow that ±∞
shows. A bound on the other side (a minimum of 1e5) does change values, and is judged as any constant is.
"""

from __future__ import annotations

import onnx_ir as ir

from deploykit.quantize.constants import constant
from deploykit.quantize.formats import Format

MINIMUM, MAXIMUM = 1, 2
"""Positions of the bounds among Clip's inputs."""


def idle(node: ir.Node, position: int, to: Format) -> bool:
    """Whether the input at `position` is a bound that no finite number of the type reaches."""
    if node.op_type != "Clip" or node.domain != "" or position not in (MINIMUM, MAXIMUM):
        return False
    bound = constant(node.inputs[position])
    if bound is None or bound.size != 1:
        return False
    return bool(bound.item() < -to.largest if position == MINIMUM else bound.item() > to.largest)


def drop_idle(node: ir.Node, to: Format) -> None:
    """Leave such bounds out."""
    for position in range(len(node.inputs)):
        if idle(node, position, to):
            node.replace_input_with(position, None)
