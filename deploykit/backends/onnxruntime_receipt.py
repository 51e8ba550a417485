"""In what arithmetic ONNX Runtime computes each layer, read from the graph that it saves as optimized.

Fusions keep a layer's node name or derive another one from it (MatMul with Add: `NAME/MatMulAddFusion`). Only the
NCHWc layout names a convolution anew, after the tensor that the fused kernel writes: `TENSOR_nchwc`, and where FP16 was
replaced by FP32 `InsertedPrecisionFreeCast_TENSOR_nchwc`. That tensor is the layer's own or one that follows it, reader
by reader, as long as there is one reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import onnx_ir as ir

from deploykit.core.values import Arithmetic

EVIDENCE: Final = "the graph that ONNX Runtime saves as optimized"

INTEGER: Final = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul"}
)
"""Operators that multiply integers, whatever they write."""

FLOATING: Final[Mapping[ir.DataType, Arithmetic]] = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}

TOKEN: Final = re.compile(r"_token_\d+$")
"""What ONNX Runtime appends to a name that some node had before."""


def read(optimized: ir.Graph, layers: Sequence[ir.Node]) -> dict[str, Arithmetic]:
    """The arithmetic of each layer. There is no entry where none of the optimized graph's nodes, or one that computes
    another layer already, can be said to compute it.
    """
    multiplying = [node for node in optimized if _multiplies(node)]
    named = {TOKEN.sub("", node.name or ""): node for node in multiplying}
    named |= {node.name or "": node for node in multiplying}
    kernels = [next((named[name] for name in _names(layer) if name in named), None) for layer in layers]
    told = {}
    for layer, kernel in zip(layers, kernels, strict=True):
        if kernel is not None and kernels.count(kernel) == 1 and (arithmetic := _arithmetic(kernel)) is not None:
            told[layer.name or ""] = arithmetic
    return told


def _multiplies(node: ir.Node) -> bool:
    return node.op_type in INTEGER or "Conv" in node.op_type or "Gemm" in node.op_type or "MatMul" in node.op_type


def _names(layer: ir.Node) -> Iterator[str]:
    """What the kernel of a layer may be called, the surest first."""
    yield layer.name or ""
    yield f"{layer.name}/MatMulAddFusion"
    yield f"{layer.name}/MatmulTransposeFusion/"
    yield f"fused {layer.name}"  # Gemm and Relu
    tensor = layer.outputs[0]
    while True:
        yield f"{tensor.name}_nchwc"
        yield f"InsertedPrecisionFreeCast_{tensor.name}_nchwc"
        readers = tuple(tensor.uses())
        if len(readers) != 1 or tensor.is_graph_output():
            return
        tensor = readers[0].node.outputs[0]


def _arithmetic(kernel: ir.Node) -> Arithmetic | None:
    """The type of the kernel's weight, which is that of its other input; looked up at the constants that lead to it,
    since shape inference does not know ONNX Runtime's own operators. None where they do not tell.
    """
    if kernel.op_type in INTEGER:
        return "int8"
    weight = kernel.inputs[1]
    while weight is not None:
        producer = weight.producer()
        if weight.dtype is not None and weight.dtype in FLOATING:
            return FLOATING[weight.dtype]
        if producer is None or not producer.inputs:
            break
        if producer.op_type == "Cast":
            target = ir.DataType(producer.attributes.get_int("to", 0))
            return FLOATING.get(target)
        weight = producer.inputs[1] if producer.op_type == "DequantizeLinear" else producer.inputs[0]
    return None
