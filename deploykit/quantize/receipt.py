"""The precision receipt: what share of a network's multiply-accumulates really ran at which arithmetic."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as passes

from deploykit.core.errors import InputError
from deploykit.core.values import Arithmetic, Executed, LayerArithmetic, PrecisionReceipt
from deploykit.quantize.placement import LAYERS, constant, is_layer

TYPES: Final[dict[ir.DataType, Arithmetic]] = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}

OF_TORCH: Final = re.compile(r"s\d+")
"""torch.export's own name for a size that varies, which is the batch: beside `batch` it writes `64*s31`."""


def receipt(graph: Path, executed: Executed, backend: str, version: str) -> PrecisionReceipt:
    """What the types of `graph` ask for beside what the backend did, weighed by multiply-accumulates."""
    layers = tuple(
        LayerArithmetic(node.name or "", node.op_type, work, asked(node), executed.arithmetic.get(node.name or ""))
        for node, work in macs(ir.load(graph)).items()
    )
    total = sum(layer.macs for layer in layers)
    shares: dict[Arithmetic, float] = {}
    for layer in layers:
        if layer.ran is not None:
            shares[layer.ran] = shares.get(layer.ran, 0.0) + layer.macs / total
    return PrecisionReceipt(backend, version, executed.evidence, shares, layers)


def int8_share(graph: Path, excluded: frozenset[str]) -> float:
    """Share of the multiply-accumulates of a floating-point graph that are quantized if `excluded` are not."""
    layers = macs(ir.load(graph))
    taken = sum(work for node, work in layers.items() if is_layer(node) and node.name not in excluded)
    return taken / sum(layers.values())


def multiplies(node: ir.Node) -> bool:
    """Whether the node multiplies a computed tensor by weights: constants, or codes behind a DequantizeLinear."""
    if node.op_type not in LAYERS or len(node.inputs) < 2:
        return False
    data, weight = node.inputs[0], node.inputs[1]
    return data is not None and weight is not None and not _fixed(data) and _fixed(weight)


def _fixed(value: ir.Value) -> bool:
    producer = value.producer()
    codes = producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else None
    return any(each is not None and constant(each) for each in (value, codes))


def asked(node: ir.Node) -> Arithmetic:
    """INT8 where both operands come through DequantizeLinear, else the type of the data."""
    operands = [None if value is None else value.producer() for value in node.inputs[:2]]
    if all(producer is not None and producer.op_type == "DequantizeLinear" for producer in operands):
        return "int8"
    data = node.inputs[0]
    assert data is not None
    assert data.dtype is not None
    return TYPES[data.dtype]


def macs(model: ir.Model) -> dict[ir.Node, int]:
    """Multiply-accumulates of each layer for one image, in the graph's order. The model's shapes become those of it.

    Where the batch is cannot be told from a layer's own shapes: windows of attention lie along the first axis, and some
    networks have the sequence there. So all shapes are those of a batch of 1; a batch that is fixed is divided by.
    """
    for value in model.graph.inputs:
        for size in (value.shape or ())[1:]:
            _size(size, f"the input {value.name}")
    names = frozenset(str(value.shape[0]) for value in model.graph.inputs if value.shape)
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(_of_one(size, names) for size in value.shape)
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    batch = next((value.shape[0] for value in model.graph.inputs if value.shape), 1)
    assert isinstance(batch, int)
    return {node: _macs(node) // batch for node in model.graph if multiplies(node)}


def _of_one(size: int | ir.SymbolicDim, batch: frozenset[str]) -> int | ir.SymbolicDim:
    """The size of an axis for one image: multiples of the batch count, and what else varies stays unknown."""
    if isinstance(size, int):
        return size
    symbols = size.free_symbols()
    if not symbols or not all(name in batch or OF_TORCH.fullmatch(name) for name in symbols):
        return size
    found = size.evaluate(dict.fromkeys(symbols, 1))
    return found if isinstance(found, int) else size


def _macs(node: ir.Node) -> int:
    weight, output = node.inputs[1], node.outputs[0]
    over = node.inputs[0] if node.op_type == "ConvTranspose" else output  # it spreads each input over its kernel
    if weight is None or weight.shape is None or over is None or over.shape is None:
        raise InputError(f"The graph gives no shapes for {node.name}.", "Export it with deploykit.")
    repeated = over.shape[:-1] if node.op_type in ("Gemm", "MatMul") else (over.shape[0], *over.shape[2:])
    return math.prod(_size(size, node.name) for size in (*weight.shape, *repeated))


def _size(size: int | ir.SymbolicDim, place: str | None) -> int:
    if not isinstance(size, int):
        raise InputError(
            f"The size {size} at {place} is not known before the network runs, and nor is the work of its layers.",
            "Export it at one height and width; only the batch may vary.",
        )
    return size
