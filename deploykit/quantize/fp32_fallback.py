"""Which nodes must stay FP32, and why: values that leave the type's range, constants it cannot hold, operators without
a form for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.values import KeptNode, Range
from deploykit.quantize import clip_bounds, dequantize, schemas
from deploykit.quantize.constants import constant
from deploykit.quantize.formats import Format
from deploykit.quantize.placement import LAYERS

BRANCHES: Final = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
PAIR: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


def require_opset(graph: ir.Graph, to: Format) -> None:
    """Refuse an opset at which Q/DQ, or the layers that hold nearly all the work, lack the type and later have it.

    Kept in FP32 between Casts they would leave nothing worth the name; any other operator may stay behind.
    """
    for node in graph:
        if node.op_type not in PAIR | LAYERS or any(schemas.takes(node, i, to) for i in range(len(node.inputs))):
            continue
        opset = schemas.first_opset(node, to)
        if opset is not None:
            raise InputError(
                f"{node.op_type} takes {to.name} from opset {opset} on; the graph has {graph.opset_imports['']}.",
                f"Export it with --opset {opset} or a later one.",
            )


def computing(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that compute in some floating-point type. A DequantizeLinear is no more than part of its readers, and
    what only carries codes computes nothing.
    """
    floats = [node for node in graph if any(map(_may_be_float, node.outputs)) and node.op_type != "Constant"]
    return [node for node in floats if dequantize.scale(node) is None and not dequantize.carries_codes(node)]


def kept_nodes(graph: ir.Graph, ranges: Mapping[str, Range], to: Format) -> dict[ir.Node, KeptNode]:
    """The nodes that must stay FP32, each with its reason."""
    candidates = frozenset(computing(graph))
    kept = {}
    for node in graph:
        reason = _obstacle(node, ranges, to) if node in candidates else _coarse(node, to)
        if reason is not None:
            kept[node] = KeptNode(node.name or "", node.op_type, reason)
    return kept


def excess(value: ir.Value, ranges: Mapping[str, Range], to: Format) -> str | None:
    """Why the values of a tensor do not fit the type, or are not known to; None: they do."""
    array, producer = constant(value), value.producer()
    if array is not None:
        reason = to.unfit(array)
        return reason and f"{value.name} {reason}"
    if producer is not None and (scale := dequantize.scale(producer)) is not None:
        if reason := to.unfit_scale(scale):
            return f"{producer.inputs[1].name if producer.inputs[1] else ''} {reason}"
        most = dequantize.bound(producer)
        if most is not None:
            return f"{value.name} may reach {most:.4g}, beyond ±{to.largest:g}" if to.exceeded_by(most) else None
    seen = ranges.get(value.name or "")
    if seen is None:
        return None if value.is_graph_input() else f"{value.name} was not observed on samples"
    extreme = max(seen.low, seen.high, key=abs)
    return f"{value.name} reached {extreme:.4g}, beyond ±{to.largest:g}" if to.exceeded_by(extreme) else None


def retyped_inputs(node: ir.Node, to: Format) -> list[int]:
    """Positions of the float32 inputs that the operator also takes in the type."""
    return [i for i, value in enumerate(node.inputs) if is_float(value) and schemas.takes(node, i, to)]


def is_float(value: ir.Value | None) -> bool:
    """Whether it is a float32 tensor: no sequence of tensors, and no other type."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def _may_be_float(value: ir.Value) -> bool:
    return is_float(value) or _untyped(value)


def _untyped(value: ir.Value) -> bool:
    """Whether the graph does not say what type it has; an output that is left out has no name either."""
    return bool(value.name) and value.type is None


def _obstacle(node: ir.Node, ranges: Mapping[str, Range], to: Format) -> str | None:
    if any(attribute.type in BRANCHES for attribute in node.attributes.values()):
        return "control flow keeps the types of its branches"
    for value in (*node.inputs, *node.outputs):
        if value is not None and _untyped(value):
            return f"{value.name} has no type in the graph"
    inputs = retyped_inputs(node, to)
    outputs = [node.outputs[i] for i in schemas.followers(node, inputs)]
    if not any(map(is_float, outputs)):
        return _formless(node, inputs, to)
    read = [node.inputs[i] for i in inputs if not clip_bounds.idle(node, i, to)]
    reasons = (excess(value, ranges, to) for value in (*read, *outputs) if value is not None)
    return next((reason for reason in reasons if reason), None)


def _formless(node: ir.Node, inputs: list[int], to: Format) -> str:
    """Why no output of a node can have the type, where it is the operator's doing."""
    if schemas.known(node) and (inputs or node.op_type == "Cast" or not any(map(is_float, node.inputs))):
        return f"no float32 input sets the type that {node.op_type} gives"
    opset = schemas.first_opset(node, to)
    return f"{node.op_type} has no {to.name} form " + ("here" if opset is None else f"before opset {opset}")


def _coarse(node: ir.Node, to: Format) -> str | None:
    """Why a QuantizeLinear cannot have its scale in the type."""
    scale = constant(node.inputs[1]) if node.op_type == "QuantizeLinear" and node.domain == "" else None
    reason = None if scale is None else to.unfit_scale(scale)
    return reason and f"{node.inputs[1].name if node.inputs[1] else ''} {reason}"
