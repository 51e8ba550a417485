"""Nodes that must stay FP32, and why: values outside the type's range, inside an operator too; small values that are
divided by; constants that the type cannot hold; operators that do not support it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.graph_edit import read_constant
from deploykit.core.values import Fp32Node, Range
from deploykit.quantize import clip_bounds, dequantize, schemas
from deploykit.quantize.formats import Format
from deploykit.quantize.hidden_sums import explain_hidden_value
from deploykit.quantize.placement import LAYERS
from deploykit.quantize.small_values import find_small_operands

BRANCH_ATTRIBUTES: Final = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
QDQ_OPERATORS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
BIASED: Final = frozenset({"Conv", "ConvTranspose", "Gemm"})
BIAS = 2
"""Position of the bias among the inputs of these operators."""


def require_opset(graph: ir.Graph, to: Format) -> None:
    """Refuse an opset at which Q/DQ or the layers do not support the type, if a later opset adds it.

    They hold nearly all the work: with them in FP32 between Casts the graph would gain nothing. Other operators may
    stay FP32.
    """
    for node in graph:
        if node.op_type not in QDQ_OPERATORS | LAYERS or any(
            schemas.accepts_type(node, i, to) for i in range(len(node.inputs))
        ):
            continue
        opset = schemas.find_first_opset(node, to)
        if opset is not None:
            raise InputError(
                f"{node.op_type} supports {to.name} from opset {opset}; the graph has opset {graph.opset_imports['']}.",
                f"Export it with --opset {opset} or later.",
            )


def list_floating_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that compute in a floating-point type.

    A DequantizeLinear takes the type of its readers, and a passthrough of codes computes nothing: neither is listed.
    """

    def computes(node: ir.Node) -> bool:
        return dequantize.read_scale(node) is None and not dequantize.is_quantized_passthrough(node)

    floats = (node for node in graph if any(map(_may_be_float32, node.outputs)) and node.op_type != "Constant")
    return [node for node in floats if computes(node)]


def find_fp32_nodes(graph: ir.Graph, ranges: Mapping[str, Range], to: Format) -> dict[ir.Node, Fp32Node]:
    """The nodes that must stay FP32, each with its reason."""
    candidates = frozenset(list_floating_nodes(graph))
    small = find_small_operands(graph, ranges, to)
    fp32_nodes = {}
    for node in graph:
        if node in candidates:
            reason = _explain_fp32_node(node, ranges, to) or small.get(node)
        else:
            reason = _explain_fp32_scale(node, to)
        if reason is not None:
            fp32_nodes[node] = Fp32Node(node.name or "", node.op_type, reason)
    return fp32_nodes


def explain_out_of_range(value: ir.Value, ranges: Mapping[str, Range], to: Format) -> str | None:
    """Why the values of a tensor do not fit the type, or are not known to fit; None: they fit."""
    array, producer = read_constant(value), value.producer()
    if array is not None:
        reason = to.explain_unfit_weight(array)
        return reason and f"{value.name} {reason}"
    if producer is not None and (scale := dequantize.read_scale(producer)) is not None:
        if reason := to.explain_unfit_scale(scale):
            return f"{producer.inputs[1].name if producer.inputs[1] else ''} {reason}"
        bound = dequantize.largest_magnitude(producer)
        if bound is not None:
            return f"{value.name} may reach {bound:.4g}, beyond ±{to.largest:g}" if to.exceeded_by(bound) else None
    observed = ranges.get(value.name or "")
    if observed is None:
        return None if value.is_graph_input() else f"{value.name} was not observed on samples"
    extreme = max(observed.low, observed.high, key=abs)
    return f"{value.name} reached {extreme:.4g}, beyond ±{to.largest:g}" if to.exceeded_by(extreme) else None


def castable_inputs(node: ir.Node, to: Format) -> list[int]:
    """Positions of the float32 inputs that the operator also accepts in the type."""
    return [i for i, value in enumerate(node.inputs) if is_float32(value) and schemas.accepts_type(node, i, to)]


def is_float32(value: ir.Value | None) -> bool:
    """Whether the value is a float32 tensor, neither a sequence nor another type."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def _may_be_float32(value: ir.Value) -> bool:
    return is_float32(value) or _has_no_type(value)


def _has_no_type(value: ir.Value) -> bool:
    """Whether the graph declares no type for the value; an omitted output has no name either."""
    return bool(value.name) and value.type is None


def _explain_fp32_node(node: ir.Node, ranges: Mapping[str, Range], to: Format) -> str | None:
    if any(attribute.type in BRANCH_ATTRIBUTES for attribute in node.attributes.values()):
        return "control flow keeps the types of its branches"
    for value in (*node.inputs, *node.outputs):
        if value is not None and _has_no_type(value):
            return f"{value.name} has no type in the graph"
    inputs = castable_inputs(node, to)
    outputs = [node.outputs[i] for i in schemas.retyped_outputs(node, inputs)]
    if not any(map(is_float32, outputs)):
        return _explain_missing_form(node, inputs, to)
    harmless = {
        i for i in inputs if clip_bounds.is_unreachable_bound(node, i, to) or _is_small_bias(node, i, ranges, to)
    }
    read = [node.inputs[i] for i in inputs if i not in harmless]
    reasons = (explain_out_of_range(value, ranges, to) for value in (*read, *outputs) if value is not None)
    return next(filter(None, reasons), None) or explain_hidden_value(node, ranges, to)


def _is_small_bias(node: ir.Node, position: int, ranges: Mapping[str, Range], to: Format) -> bool:
    """Whether the input is a layer's bias that rounding changes by less than rounding its output does.

    A BatchNorm folded into a layer may leave a bias of 1e-8, which float16 rounds to zero: nothing beside outputs of 1.
    """
    bias = (
        read_constant(node.inputs[position])
        if node.op_type in BIASED and position == BIAS and not node.domain
        else None
    )
    observed = ranges.get(node.outputs[0].name or "")
    if bias is None or observed is None:
        return False
    with np.errstate(over="ignore"):
        error = np.max(np.abs(bias - to.round_array(bias).astype(bias.dtype)), initial=0.0)
    return bool(error <= to.rounding_tolerance * max(abs(observed.low), abs(observed.high)))


def _explain_missing_form(node: ir.Node, inputs: list[int], to: Format) -> str:
    """Why the operator has no output in the type."""
    if schemas.has_schema(node) and (inputs or node.op_type == "Cast" or not any(map(is_float32, node.inputs))):
        return f"no float32 input sets the output type of {node.op_type}"
    opset = schemas.find_first_opset(node, to)
    return f"{node.op_type} does not support {to.name}" + ("" if opset is None else f" before opset {opset}")


def _explain_fp32_scale(node: ir.Node, to: Format) -> str | None:
    """Why a QuantizeLinear cannot have its scale in the type."""
    scale = read_constant(node.inputs[1]) if node.op_type == "QuantizeLinear" and node.domain == "" else None
    reason = None if scale is None else to.explain_unfit_scale(scale)
    return reason and f"{node.inputs[1].name if node.inputs[1] else ''} {reason}"
