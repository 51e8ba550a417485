"""Where and in which type each node of a session ran, from the profile of one call.

A layout change keeps the names of products; where a name is not found, the type that all products of that operator have
is the node's. The CUDA provider multiplies in the type of its inputs: in FP16 it accumulates in FP32, and it has no
integer products for Q/DQ graphs, which it computes in floating point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import onnx_ir as ir

from deploykit.backends.onnxruntime_cuda.kernels import shows_half_arithmetic
from deploykit.backends.onnxruntime_profile import RunNode
from deploykit.backends.onnxruntime_receipt import PRODUCT_PARTS
from deploykit.core.values import Arithmetic, ExecutedPrecision

EVIDENCE: Final = "session profile"

TYPES: Final[dict[str, Arithmetic]] = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp32"}
"""By the profile's names of the types that are multiplied."""

WITH_KERNELS: Final = "session profile and kernel names"

COPIES: Final = ("MemcpyFromHost", "MemcpyToHost")
"""Nodes that ONNX Runtime inserts between providers."""


def read_arithmetic(nodes: Sequence[RunNode], products: Sequence[ir.Node]) -> dict[str, Arithmetic]:
    """The arithmetic of each product, by its name in the graph. One that cannot be identified has no entry."""
    by_name = {node.name: node for node in nodes}
    result = {}
    for product in products:
        arithmetic = _find_arithmetic(by_name, nodes, product)
        if arithmetic is not None:
            result[product.name or ""] = arithmetic
    return result


def _find_arithmetic(by_name: dict[str, RunNode], nodes: Sequence[RunNode], product: ir.Node) -> Arithmetic | None:
    named = (by_name.get(name) for name in _list_names(product.name or ""))
    if (node := next((node for node in named if node is not None), None)) is not None:
        return read_node_arithmetic(node)
    alike = {read_node_arithmetic(node) for node in nodes if node.operator == product.op_type}
    return alike.pop() if len(alike) == 1 else None


def _list_names(name: str) -> Iterator[str]:
    """Names that ONNX Runtime gives a product: its own, and those of MatMul with Add as Gemm."""
    yield name
    yield f"{name}/MatMulAddFusion"


def read_node_arithmetic(node: RunNode) -> Arithmetic | None:
    """The type of the first two operands, which are of one type in every product that the provider has. None for a node
    that is not a product.
    """
    is_product = any(part in node.operator for part in PRODUCT_PARTS)
    return TYPES.get(node.input_types[0]) if is_product and node.input_types else None


def confirm_half(arithmetic: dict[str, Arithmetic], kernels: list[str] | None) -> ExecutedPrecision:
    """Take a product for FP16 only where kernels that multiply FP16 ran, if their names could be read at all."""
    if kernels is None:
        return ExecutedPrecision(EVIDENCE, arithmetic)
    if shows_half_arithmetic(kernels):
        return ExecutedPrecision(WITH_KERNELS, arithmetic)
    without_half = {name: executed for name, executed in arithmetic.items() if executed != "fp16"}
    return ExecutedPrecision(WITH_KERNELS, without_half)


def describe_fallback(nodes: Sequence[RunNode], provider: str) -> str | None:
    """What ran elsewhere, as a caveat: `3 of 120 nodes ran on the CPU: Shape, 2 × Gather`. None where nothing did."""
    own = [node for node in nodes if node.operator not in COPIES]
    elsewhere = Counter(node.operator for node in own if node.provider != provider)
    if not elsewhere:
        return None
    names = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in elsewhere.most_common())
    return f"{elsewhere.total()} of {len(own)} nodes ran on the CPU: {names}"
