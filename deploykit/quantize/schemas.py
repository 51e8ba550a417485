"""Types that an operator supports, from onnx's schemas: the cast needs no list of operators and works for any graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from deploykit.quantize.formats import Format


def has_schema(node: ir.Node) -> bool:
    """Whether onnx knows the operator at the graph's opset."""
    return _find_schema(node) is not None


def accepts_type(node: ir.Node, position: int, to: Format) -> bool:
    """Whether the operator, at the graph's opset, accepts the type `to` for its input at `position`."""
    return (
        node.op_type != "Cast" and (schema := _find_schema(node)) is not None and _is_type_allowed(schema, position, to)
    )


def retyped_outputs(node: ir.Node, retyped: Sequence[int]) -> list[int]:
    """Positions of the outputs that have the type of the inputs at the positions `retyped`."""
    schema = _find_schema(node)
    if schema is None:
        return []
    variables = {_formal_parameter(schema.inputs, position).type_str for position in retyped}
    if _gives_scale_type(node, schema) and 1 in retyped:
        return [0]
    return [i for i in range(len(node.outputs)) if _formal_parameter(schema.outputs, i).type_str in variables]


def find_first_opset(node: ir.Node, to: Format) -> int | None:
    """The first opset after the graph's at which an input of the node can have the type `to`."""
    assert node.graph is not None
    if _find_schema(node) is None or node.domain != "":
        return None
    for opset in range(node.graph.opset_imports[node.domain] + 1, onnx.defs.onnx_opset_version() + 1):
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        if any(_is_type_allowed(schema, position, to) for position in range(min(len(node.inputs), len(schema.inputs)))):
            return opset
    return None


def _gives_scale_type(node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    """Whether the node is a DequantizeLinear whose output has the type of its scale.

    From opset 23 on the output has a type variable of its own, which is the scale's type by default.
    """
    if node.op_type != "DequantizeLinear" or node.domain != "":
        return False
    return schema.since_version >= 19 and not node.attributes.get_int("output_dtype", 0)


def _is_type_allowed(schema: onnx.defs.OpSchema, position: int, to: Format) -> bool:
    variable = _formal_parameter(schema.inputs, position).type_str
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return f"tensor({to.name})" in allowed.get(variable, ())


def _formal_parameter(
    formals: Sequence[onnx.defs.OpSchema.FormalParameter], position: int
) -> onnx.defs.OpSchema.FormalParameter:
    """The declared parameter at `position`: the last one repeats for variadic operators such as Concat."""
    return formals[min(position, len(formals) - 1)]


def _find_schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    """The operator's schema; None where onnx has none at the graph's opset."""
    assert node.graph is not None
    opset = node.graph.opset_imports.get(node.domain)
    if opset is None or not onnx.defs.has(node.op_type, node.domain):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
