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

from deploykit.errors import InternalError
from deploykit.values import Arithmetic

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

REMEDY: Final = "This is a fault of deploykit: please report it with the graph and ONNX Runtime's version."


def read(optimized: ir.Graph, layers: Sequence[ir.Node]) -> dict[str, Arithmetic]:
    """The arithmetic of each layer. InternalError where none of the optimized graph's nodes, or one that computes
    another layer already, can be said to compute it.
    """
    multiplying = [node for node in optimized if _multiplies(node)]
    named = {TOKEN.sub("", node.name or ""): node for node in multiplying}
    named |= {node.name or "": node for node in multiplying}
    kernels: dict[ir.Node, str] = {}
    arithmetic: dict[str, Arithmetic] = {}
    for layer in layers:
        kernel = next((named[name] for name in _names(layer) if name in named), None)
        if kernel is None or kernel in kernels:
            told = f"computes {layer.name} and {kernels[kernel]}" if kernel else f"computes {layer.name}"
            raise InternalError(f"ONNX Runtime's optimized graph does not say which one node {told}.", REMEDY)
        kernels[kernel] = layer.name or ""
        arithmetic[layer.name or ""] = "int8" if kernel.op_type in INTEGER else _floating(kernel, kernel.inputs[1])
    return arithmetic


def _multiplies(node: ir.Node) -> bool:
    return node.op_type in INTEGER or "Conv" in node.op_type or "Gemm" in node.op_type or "MatMul" in node.op_type


def _names(layer: ir.Node) -> Iterator[str]:
    """What the kernel of a layer may be called, the surest first."""
    yield layer.name or ""
    yield f"{layer.name}/MatMulAddFusion"
    yield f"fused {layer.name}"  # Gemm and Relu
    tensor = layer.outputs[0]
    while True:
        yield f"{tensor.name}_nchwc"
        yield f"InsertedPrecisionFreeCast_{tensor.name}_nchwc"
        readers = tuple(tensor.uses())
        if len(readers) != 1 or tensor.is_graph_output():
            return
        tensor = readers[0].node.outputs[0]


def _floating(kernel: ir.Node, weight: ir.Value | None) -> Arithmetic:
    """The type of a kernel's weight, which is that of its other input; looked up at the constants that lead to it,
    since shape inference does not know ONNX Runtime's own operators.
    """
    while weight is not None:
        producer = weight.producer()
        if weight.dtype is not None and weight.dtype in FLOATING:
            return FLOATING[weight.dtype]
        if producer is None or not producer.inputs:
            break
        if producer.op_type == "Cast":
            target = ir.DataType(producer.attributes.get_int("to", 0))
            return FLOATING[target]
        weight = producer.inputs[1] if producer.op_type == "DequantizeLinear" else producer.inputs[0]
    raise InternalError(f"ONNX Runtime's optimized graph does not say the type of the weight of {kernel.name}.", REMEDY)
