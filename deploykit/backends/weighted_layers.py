"""The nodes of a graph that multiply by weights: those whose arithmetic a backend gives account of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deploykit.core.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHT: Final = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulIntegerToFloat": 1,
}
"""Which input holds the weight. The last one is what ONNX Runtime's INT8 engines have for some of the others."""


def layers(graph: ir.Graph) -> list[ir.Node]:
    """Conv, ConvTranspose, Gemm and MatMul with constant weights, in the graph's order, with names of their own.

    InputError where a layer has no name, or one that another has too: an account by name would lose it.
    """
    constants = set(graph.initializers.values())
    found = []
    for node in graph:
        if all(value is None or value in constants for value in node.inputs):
            constants.update(node.outputs)  # int8 codes behind a DequantizeLinear, for one
        elif _multiplies(node, constants):
            found.append(node)
    names = [node.name for node in found]
    for name in names:
        if not name or names.count(name) > 1:
            what = f"{names.count(name)} layers are named {name}" if name else "a layer has no name"
            raise InputError(f"In this graph {what}.", "Export it with deploykit, which names every node.")
    return found


def _multiplies(node: ir.Node, constants: set[ir.Value]) -> bool:
    weight = WEIGHT.get(node.op_type, len(node.inputs))
    if node.domain not in ("", "ai.onnx", "com.microsoft") or weight >= len(node.inputs):
        return False
    return node.inputs[weight] in constants and node.inputs[0] not in constants
