"""The nodes of a graph that multiply by constant weights: where runtimes begin a fused kernel.

Receipts report every product, of `core.products`; these are the products that `diagnose` compares layer by layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deploykit.core.products import require_unique_names

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHT_INPUT: Final = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulIntegerToFloat": 1,
}
"""Input index of the weight. ONNX Runtime's INT8 engines have MatMulIntegerToFloat in place of some of the others."""


def find_weighted_layers(graph: ir.Graph) -> list[ir.Node]:
    """Conv, ConvTranspose, Gemm and MatMul nodes with constant weights, in the graph's order.

    InputError where a layer has no name or shares it with another: results are reported by name.
    """
    constants = set(graph.initializers.values())
    layers = []
    for node in graph:
        if all(value is None or value in constants for value in node.inputs):
            constants.update(node.outputs)  # dequantized int8 codes, for example
        elif _has_constant_weight(node, constants):
            layers.append(node)
    require_unique_names(layers)
    return layers


def _has_constant_weight(node: ir.Node, constants: set[ir.Value]) -> bool:
    weight = WEIGHT_INPUT.get(node.op_type, len(node.inputs))
    if node.domain not in ("", "ai.onnx", "com.microsoft") or weight >= len(node.inputs):
        return False
    return node.inputs[weight] in constants and node.inputs[0] not in constants
