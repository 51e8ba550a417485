"""The arithmetic ONNX Runtime computes each layer in, read from the optimized graph that it saves.

Fusions keep a layer's node name or derive another from it (MatMul with Add: `NAME/MatMulAddFusion`). Only the NCHWc
layout renames a convolution, after the tensor that the fused kernel writes: `TENSOR_nchwc`, or
`InsertedPrecisionFreeCast_TENSOR_nchwc` where FP16 was replaced by FP32. That tensor is the layer's own output or a
later one, reached through nodes that are the only reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import onnx_ir as ir

from deploykit.core.values import Arithmetic

EVIDENCE: Final = "optimized graph"

INTEGER_OPERATORS: Final = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul"}
)
"""Operators that multiply integers, whatever the type of their output."""

FLOATING_TYPES: Final[Mapping[ir.DataType, Arithmetic]] = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}

PRODUCT_PARTS: Final = ("Conv", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN")
"""Parts of the names of operators that multiply: `FusedMatMul`, for example."""

NAME_SUFFIX: Final = re.compile(r"_token_\d+$|(/MatMulAddFusion|/MatmulTransposeFusion/|/MatMulScaleFusion/)+$")
"""The suffixes that ONNX Runtime appends to a name that another node already has, and to the names of products that it
fuses with a sum, a transposition or a factor.
"""


def read_arithmetic(optimized: ir.Graph, layers: Sequence[ir.Node]) -> dict[str, Arithmetic]:
    """The arithmetic of each layer, by name. A layer has no entry where its kernel cannot be identified, or where the
    same kernel matches several layers.
    """
    kernels = match_kernels(optimized, layers)
    result = {}
    for layer, kernel in kernels.items():
        if (arithmetic := read_kernel_arithmetic(kernel)) is not None:
            result[layer] = arithmetic
    return result


def match_kernels(optimized: ir.Graph, layers: Sequence[ir.Node]) -> dict[str, ir.Node]:
    """The node of the optimized graph that computes each layer, by the layer's name. A layer has no entry where none
    can be identified, or where the same node matches several layers.
    """
    multiplying = [node for node in optimized if _is_product(node)]
    by_name = {NAME_SUFFIX.sub("", node.name or ""): node for node in multiplying}
    by_name |= {node.name or "": node for node in multiplying}
    kernels = [next((by_name[name] for name in _kernel_names(layer) if name in by_name), None) for layer in layers]
    return {
        layer.name or "": kernel
        for layer, kernel in zip(layers, kernels, strict=True)
        if kernel is not None and kernels.count(kernel) == 1
    }


def _is_product(node: ir.Node) -> bool:
    return node.op_type in INTEGER_OPERATORS or any(part in node.op_type for part in PRODUCT_PARTS)


def _kernel_names(layer: ir.Node) -> Iterator[str]:
    """Names that the kernel of a layer may have, the most certain first."""
    yield layer.name or ""
    yield f"fused {layer.name}"  # Gemm and Relu
    tensor = layer.outputs[0]
    while True:
        yield f"{tensor.name}_nchwc"
        yield f"InsertedPrecisionFreeCast_{tensor.name}_nchwc"
        readers = tuple(tensor.uses())
        if len(readers) != 1 or tensor.is_graph_output():
            return
        tensor = readers[0].node.outputs[0]


def read_kernel_arithmetic(kernel: ir.Node) -> Arithmetic | None:
    """The type of the kernel's second operand, which the first shares; read from the constants that produce it where
    shape inference does not know ONNX Runtime's own operators. None where the type cannot be determined.
    """
    if kernel.op_type in INTEGER_OPERATORS:
        return "int8"
    weight = kernel.inputs[1]
    while weight is not None:
        producer = weight.producer()
        if weight.dtype is not None and weight.dtype in FLOATING_TYPES:
            return FLOATING_TYPES[weight.dtype]
        if producer is None or not producer.inputs:
            break
        if producer.op_type == "Cast":
            target = ir.DataType(producer.attributes.get_int("to", 0))
            return FLOATING_TYPES.get(target)
        weight = producer.inputs[1] if producer.op_type == "DequantizeLinear" else producer.inputs[0]
    return None
