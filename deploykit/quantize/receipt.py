"""The precision receipt: the share of a network's multiply-accumulates that ran in each arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.products import find_nested_products, operands
from deploykit.core.values import Arithmetic, ExecutedPrecision, LayerArithmetic, PrecisionReceipt, UncountedProduct
from deploykit.quantize.mac_count import count_macs
from deploykit.quantize.placement import is_layer

ARITHMETIC_OF: Final[dict[ir.DataType | None, Arithmetic]] = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
}


def compute_precision_receipt(graph: Path, executed: ExecutedPrecision, backend: str, version: str) -> PrecisionReceipt:
    """Compare the arithmetic that `graph` requests with what the backend executed, weighted by multiply-accumulates.

    Every product of the graph is in the receipt: counted, or among those that are not, with the reason.
    """
    model = ir.load(graph)
    counts = count_macs(model)
    layers, uncounted = [], []
    for node, macs in counts.macs.items():
        name, requested = node.name or "", requested_arithmetic(node)
        if requested is None:
            uncounted.append(_uncounted(node, "its type is none that a receipt names"))
            continue
        module = node.metadata_props.get(MODULE_KEY, "")
        layers.append(LayerArithmetic(name, node.op_type, macs, requested, executed.arithmetic.get(name), module))
    uncounted += [_uncounted(node, reason) for node, reason in counts.uncounted.items()]
    uncounted += [
        _uncounted(inner, f"it is computed inside {holder.name}, a {holder.op_type}, as often as the data decide")
        for holder, inner in find_nested_products(model.graph)
    ]
    total = sum(layer.macs for layer in layers)
    shares: dict[Arithmetic, float] = {}
    for layer in layers:
        if layer.executed is not None:
            shares[layer.executed] = shares.get(layer.executed, 0.0) + layer.macs / total
    return PrecisionReceipt(backend, version, executed.evidence, shares, tuple(layers), tuple(uncounted))


def _uncounted(node: ir.Node, reason: str) -> UncountedProduct:
    return UncountedProduct(node.name or node.op_type, node.op_type, reason, node.metadata_props.get(MODULE_KEY, ""))


def compute_int8_share(graph: Path, excluded: frozenset[str]) -> float:
    """Share of a floating-point graph's multiply-accumulates that are quantized when `excluded` layers are not."""
    layers = count_macs(ir.load(graph)).macs
    quantized = sum(macs for node, macs in layers.items() if is_layer(node) and node.name not in excluded)
    total = sum(layers.values())
    return quantized / total if total else 0.0


def requested_arithmetic(node: ir.Node) -> Arithmetic | None:
    """INT8 where all operands come from a DequantizeLinear, else the type of the data; None for other types."""
    factors = operands(node)
    producers = [None if value is None else value.producer() for value in factors]
    if all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers):
        return "int8"
    return next((ARITHMETIC_OF.get(value.dtype) for value in factors if value is not None and value.dtype), None)
