"""The precision receipt: the share of a network's multiply-accumulates that ran in each arithmetic."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as passes

from deploykit.core.errors import InputError
from deploykit.core.graph_edit import is_constant
from deploykit.core.values import Arithmetic, ExecutedPrecision, LayerArithmetic, PrecisionReceipt
from deploykit.quantize.placement import LAYERS, is_layer

ARITHMETIC_OF: Final[dict[ir.DataType, Arithmetic]] = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}

TORCH_SYMBOL: Final = re.compile(r"s\d+")
"""torch.export's name for a dynamic size, here the batch: besides `batch` it writes `64*s31`."""


def compute_precision_receipt(graph: Path, executed: ExecutedPrecision, backend: str, version: str) -> PrecisionReceipt:
    """Compare the arithmetic that `graph` requests with what the backend executed, weighted by multiply-accumulates."""
    layers = tuple(
        LayerArithmetic(
            node.name or "", node.op_type, work, requested_arithmetic(node), executed.arithmetic.get(node.name or "")
        )
        for node, work in count_macs(ir.load(graph)).items()
    )
    total = sum(layer.macs for layer in layers)
    shares: dict[Arithmetic, float] = {}
    for layer in layers:
        if layer.executed is not None:
            shares[layer.executed] = shares.get(layer.executed, 0.0) + layer.macs / total
    return PrecisionReceipt(backend, version, executed.evidence, shares, layers)


def compute_int8_share(graph: Path, excluded: frozenset[str]) -> float:
    """Share of a floating-point graph's multiply-accumulates that are quantized when `excluded` layers are not."""
    layers = count_macs(ir.load(graph))
    quantized = sum(macs for node, macs in layers.items() if is_layer(node) and node.name not in excluded)
    return quantized / sum(layers.values())


def has_weight(node: ir.Node) -> bool:
    """Whether the node multiplies a computed tensor by weights: constants, or dequantized constant codes."""
    if node.op_type not in LAYERS or len(node.inputs) < 2:
        return False
    data, weight = node.inputs[0], node.inputs[1]
    return data is not None and weight is not None and not _is_weight(data) and _is_weight(weight)


def _is_weight(value: ir.Value) -> bool:
    producer = value.producer()
    codes = producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else None
    return is_constant(value) or is_constant(codes)


def requested_arithmetic(node: ir.Node) -> Arithmetic:
    """INT8 where both operands come from a DequantizeLinear, else the type of the data."""
    operands = [None if value is None else value.producer() for value in node.inputs[:2]]
    if all(producer is not None and producer.op_type == "DequantizeLinear" for producer in operands):
        return "int8"
    data = node.inputs[0]
    assert data is not None
    assert data.dtype is not None
    return ARITHMETIC_OF[data.dtype]


def count_macs(model: ir.Model) -> dict[ir.Node, int]:
    """Multiply-accumulates of each layer for one image, in the graph's order; changes the shapes of `model`.

    A layer's own shapes do not show which axis is the batch: attention windows lie along the first axis, and some
    networks have the sequence there. So all shapes are set to a batch of 1, and a fixed batch is divided out.
    """
    for value in model.graph.inputs:
        for size in (value.shape or ())[1:]:
            _require_fixed_size(size, f"the input {value.name}")
    names = frozenset(str(value.shape[0]) for value in model.graph.inputs if value.shape)
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(_size_per_image(size, names) for size in value.shape)
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    batch = next((value.shape[0] for value in model.graph.inputs if value.shape), 1)
    assert isinstance(batch, int)
    return {node: _count_layer_macs(node) // batch for node in model.graph if has_weight(node)}


def _size_per_image(size: int | ir.SymbolicDim, batch: frozenset[str]) -> int | ir.SymbolicDim:
    """The size of an axis for one image: multiples of the batch are evaluated at 1, other symbols stay."""
    if isinstance(size, int):
        return size
    symbols = size.free_symbols()
    if not symbols or not all(name in batch or TORCH_SYMBOL.fullmatch(name) for name in symbols):
        return size
    value = size.evaluate(dict.fromkeys(symbols, 1))
    return value if isinstance(value, int) else size


def _count_layer_macs(node: ir.Node) -> int:
    """Weight elements times the positions at which the layer applies them."""
    # Conv: weight (out, in / groups, kH, kW), once per output position; ConvTranspose: once per input position
    # Gemm, MatMul: weight (in, out) or (out, in), once per row of the output (…, rows, out)
    weight, output = node.inputs[1], node.outputs[0]
    tensor = node.inputs[0] if node.op_type == "ConvTranspose" else output
    if weight is None or weight.shape is None or tensor is None or tensor.shape is None:
        raise InputError(f"The graph has no shapes for {node.name}.", "Export it with deploykit.")
    positions = tensor.shape[:-1] if node.op_type in ("Gemm", "MatMul") else (tensor.shape[0], *tensor.shape[2:])
    return math.prod(_require_fixed_size(size, node.name) for size in (*weight.shape, *positions))


def _require_fixed_size(size: int | ir.SymbolicDim, place: str | None) -> int:
    if not isinstance(size, int):
        raise InputError(
            f"The size {size} at {place} is dynamic, so the multiply-accumulates of the layers cannot be counted.",
            "Export it at one height and width; only the batch may be dynamic.",
        )
    return size
