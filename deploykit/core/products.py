"""The products of a graph: the nodes whose multiply-accumulates are nearly all of a network's work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from deploykit.core.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

STANDARD_DOMAINS: Final = ("", "ai.onnx", "com.microsoft")

OPERANDS: Final = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "DeformConv": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "LSTM": (0, 1),
    "GRU": (0, 1),
    "RNN": (0, 1),
    "Attention": (0, 1),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
    "MatMulIntegerToFloat": (0, 1),
}
"""Input indices of the two tensors that are multiplied; either may be constant. MatMulIntegerToFloat is ONNX Runtime's,
and stands in its INT8 form of a graph for some of the others.
"""


def find_products(graph: ir.Graph) -> list[ir.Node]:
    """Every node that multiplies and accumulates, in the graph's order: with weights on either side or with two
    computed tensors. Products of constants alone are not among them, nor those in the branches of an If or the body of
    a Loop (`find_nested_products`).

    InputError where a product has no name or shares it with another: results are reported by name.
    """
    constants = set(graph.initializers.values())
    products = []
    for node in graph:
        if all(value is None or value in constants for value in node.inputs):
            constants.update(node.outputs)  # dequantized int8 codes, for example
        elif is_product(node):
            products.append(node)
    require_unique_names(products)
    return products


def find_nested_products(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """The products in branches and bodies, each after the node of `graph` that contains it."""
    for node in graph:
        for inner in _iterate_branches(node):
            if is_product(inner):
                yield node, inner


def is_product(node: ir.Node) -> bool:
    """Whether the node multiplies two tensors and sums over an axis, by its operator."""
    if node.domain not in STANDARD_DOMAINS:
        return False
    return node.op_type in OPERANDS or (node.op_type == "Einsum" and len(node.inputs) > 1)


def operands(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The tensors that a product multiplies: two, or all of an Einsum's."""
    return tuple(node.inputs[i] for i in OPERANDS.get(node.op_type, range(len(node.inputs))) if i < len(node.inputs))


def require_unique_names(nodes: list[ir.Node]) -> None:
    """Raise InputError where one of the nodes has no name, or the name of another."""
    names = [node.name for node in nodes]
    for name in names:
        if not name or names.count(name) > 1:
            problem = f"{names.count(name)} layers are named {name}" if name else "a layer has no name"
            raise InputError(f"In this graph {problem}.", "Export it with deploykit, which names every node.")


def _iterate_branches(node: ir.Node) -> Iterator[ir.Node]:
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from (inner for graph in attribute.as_graphs() for inner in graph.all_nodes())
