"""What onnx's schemas say about the types of an operator: the reason that retyping holds for any graph, and not for a
list of operators.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from deploykit.quantize.formats import Format


def known(node: ir.Node) -> bool:
    """Whether onnx knows the operator at the graph's opset."""
    return _schema(node) is not None


def takes(node: ir.Node, position: int, to: Format) -> bool:
    """Whether the operator, at the graph's opset, lets its input at `position` have the type `to`."""
    return node.op_type != "Cast" and (schema := _schema(node)) is not None and _allowed(schema, position, to)


def followers(node: ir.Node, retyped: Sequence[int]) -> list[int]:
    """Positions of the outputs whose type is that of the inputs at the positions `retyped`."""
    schema = _schema(node)
    if schema is None:
        return []
    variables = {_formal(schema.inputs, position).type_str for position in retyped}
    if _gives_scale_type(node, schema) and 1 in retyped:
        return [0]
    return [i for i in range(len(node.outputs)) if _formal(schema.outputs, i).type_str in variables]


def first_opset(node: ir.Node, to: Format) -> int | None:
    """The first opset behind the graph's at which an input of the node can have the type `to`."""
    assert node.graph is not None
    if _schema(node) is None or node.domain != "":
        return None
    for opset in range(node.graph.opset_imports[node.domain] + 1, onnx.defs.onnx_opset_version() + 1):
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        if any(_allowed(schema, position, to) for position in range(min(len(node.inputs), len(schema.inputs)))):
            return opset
    return None


def _gives_scale_type(node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    """DequantizeLinear: from opset 23 on its output has a type variable of its own, and is as its scale by default."""
    if node.op_type != "DequantizeLinear" or node.domain != "":
        return False
    return schema.since_version >= 19 and not node.attributes.get_int("output_dtype", 0)


def _allowed(schema: onnx.defs.OpSchema, position: int, to: Format) -> bool:
    variable = _formal(schema.inputs, position).type_str
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return f"tensor({to.name})" in allowed.get(variable, ())


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], position: int) -> onnx.defs.OpSchema.FormalParameter:
    """The declaration of an actual input or output: the last one repeats for variadic operators such as Concat."""
    return formals[min(position, len(formals) - 1)]


def _schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    """None for an operator that onnx does not know, or not at the graph's opset."""
    assert node.graph is not None
    opset = node.graph.opset_imports.get(node.domain)
    if opset is None or not onnx.defs.has(node.op_type, node.domain):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
