"""Multiply-accumulates of every product of a graph, for one image."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import onnx_ir as ir
import onnx_ir.passes.common as passes

from deploykit.core.products import find_products

TORCH_SYMBOL: Final = re.compile(r"s\d+")
"""torch.export's name for a dynamic size, here the batch: besides `batch` it writes `64*s31`."""


class Uncountable(Exception):
    """The multiply-accumulates of a product cannot be derived from the graph; the message is the reason."""


class MacCount(NamedTuple):
    """The products of a graph, those that can be counted and those that cannot."""

    macs: Mapping[ir.Node, int]
    """Multiply-accumulates of one image, in the graph's order."""
    uncounted: Mapping[ir.Node, str]
    """Why a product is not counted, as a clause."""


def count_macs(model: ir.Model) -> MacCount:
    """Count every product of the model's graph; changes the shapes of `model`.

    A product's own shapes do not show which axis is the batch: attention windows lie along the first axis, and some
    networks have the sequence there. So all shapes are set to a batch of 1, and a fixed batch is divided out.
    """
    names = frozenset(str(value.shape[0]) for value in model.graph.inputs if value.shape)
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(_size_per_image(size, names) for size in value.shape)
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    batch = next((value.shape[0] for value in model.graph.inputs if value.shape), 1)
    macs, uncounted = {}, {}
    for node in find_products(model.graph):
        try:
            macs[node] = _count_product_macs(node) // (batch if isinstance(batch, int) else 1)
        except Uncountable as reason:
            uncounted[node] = str(reason)
    return MacCount(macs, uncounted)


def _size_per_image(size: int | ir.SymbolicDim, batch: frozenset[str]) -> int | ir.SymbolicDim:
    """The size of an axis for one image: multiples of the batch are evaluated at 1, other symbols stay."""
    if isinstance(size, int):
        return size
    symbols = size.free_symbols()
    if not symbols or not all(name in batch or TORCH_SYMBOL.fullmatch(name) for name in symbols):
        return size
    value = size.evaluate(dict.fromkeys(symbols, 1))
    return value if isinstance(value, int) else size


def _count_product_macs(node: ir.Node) -> int:
    match node.op_type:
        case "Conv" | "DeformConv" | "ConvInteger":
            return _count_convolution(node, node.inputs[1], node.outputs[0])
        case "QLinearConv":
            return _count_convolution(node, node.inputs[3], node.outputs[0])
        case "ConvTranspose":
            return _count_convolution(node, node.inputs[1], node.inputs[0])
        case "Gemm":
            # A: (M, K), or (K, M) with transA; output: (M, N)
            return _elements(node.outputs[0]) * _sizes(node.inputs[0])[node.attributes.get_int("transA", 0) - 1]
        case "MatMul" | "MatMulInteger" | "QLinearMatMul" | "MatMulIntegerToFloat":
            return _elements(node.outputs[0]) * _sizes(node.inputs[0])[-1]  # A: (…, M, K), output: (…, M, N)
        case "LSTM" | "GRU" | "RNN":
            # x: (sequence, batch, in), or batch first
            # W: (directions, gates · hidden, in), R: (directions, gates · hidden, hidden)
            return math.prod(_sizes(node.inputs[0])[:2]) * (_elements(node.inputs[1]) + _elements(node.inputs[2]))
        case "Einsum":
            return _count_einsum(node)
        case _:
            raise Uncountable(f"deploykit does not count {node.op_type}")


def _count_convolution(node: ir.Node, weight: ir.Value | None, positions: ir.Value | None) -> int:
    """Weight elements times the positions at which they are applied.

    Conv: weight (out, in / groups, kH, kW), once per output position; ConvTranspose: once per input position.
    """
    if len(_sizes(positions)) < 2:
        raise Uncountable(f"{node.op_type} has no positions")
    batch, _, *space = _sizes(positions)
    return _elements(weight) * batch * math.prod(space)


def _count_einsum(node: ir.Node) -> int:
    """The product of the sizes of all labels, for each operand after the first: `bchw,oc->bohw` has B·C·H·W·O."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    sizes: dict[str, int] = {}
    for term, value in zip(equation.partition("->")[0].split(","), node.inputs, strict=True):
        shape = _sizes(value)
        before, dots, after = term.partition("...")
        broadcast = len(shape) - len(before) - len(after) if dots else 0
        # axes of an ellipsis are aligned at its end, as in broadcasting
        labels = [*before, *(f"...{broadcast - i}" for i in range(broadcast)), *after]
        if len(labels) != len(shape):
            raise Uncountable(f"its equation {equation} does not fit its inputs")
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values()) * (len(node.inputs) - 1)


def _elements(value: ir.Value | None) -> int:
    return math.prod(_sizes(value))


def _sizes(value: ir.Value | None) -> Sequence[int]:
    """The sizes of a tensor's axes. Uncountable where one is not fixed."""
    if value is None or value.shape is None:
        raise Uncountable("the graph does not say its shapes")
    for size in value.shape:
        if not isinstance(size, int):
            raise Uncountable(f"the size {size} of {value.name} is dynamic" if size.value else "a size is dynamic")
    return tuple(size for size in value.shape if isinstance(size, int))
