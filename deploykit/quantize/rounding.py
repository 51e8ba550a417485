"""Rounding as nodes of an FP32 graph: Cast to a 16-bit type and back, which every runtime must compute as written.

ONNX Runtime rounds to nearest, ties to even, with subnormals, at every optimization level: an FP16 graph itself it
computes in FP32 between the nodes, with few of the roundings that a GPU does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

from deploykit.core import onnx_io

EXACT_OPERATORS: Final = frozenset(
    {
        *("Abs", "Neg", "Sign", "Relu", "Clip", "Max", "Min", "Floor", "Ceil", "Round", "Where", "Identity"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Concat", "Split", "Slice"),
        *("Gather", "GatherElements", "GatherND", "Compress", "Pad", "DepthToSpace", "SpaceToDepth", "ReverseSequence"),
        *("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "TopK", "Trilu", "OneHot", "NonZero"),
        *("If", "Loop", "Scan", "Optional", "OptionalGetElement", "SequenceConstruct", "SequenceAt", "SequenceInsert"),
        *("SequenceErase", "SequenceEmpty", "SplitToSequence", "ConcatFromSequence"),
    }
)
"""Operators whose outputs a 16-bit type holds exactly wherever it holds their inputs: they need no rounding."""

COMMUTING_OPERATORS: Final = frozenset({"Relu", "Clip"})
"""Monotone operators that rounding may follow instead of precede, bit for bit: runtimes fuse them with the layer."""

LARGEST_SINGLE_FILE = 2**31 - 2**20
"""Bytes of weights beyond which Protobuf cannot hold the graph in one file."""


def is_exact(node: ir.Node) -> bool:
    """Whether the outputs of `node` are rounded where its inputs are."""
    return node.op_type in EXACT_OPERATORS and node.domain == ""


def is_float32(value: ir.Value) -> bool:
    """Whether the value is a float32 tensor, neither a sequence nor another type."""
    return isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def find_rounding_place(value: ir.Value) -> ir.Value:
    """The tensor to round in place of `value`: behind a Relu or a constant Clip that alone reads it."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].idx != 0:
        return value
    reader = uses[0].node
    bounds = [bound for bound in reader.inputs[1:] if bound is not None]
    if reader.op_type not in COMMUTING_OPERATORS or reader.domain or any(b.const_value is None for b in bounds):
        return value
    return reader.outputs[0]


def replace_readers(value: ir.Value, name: str) -> ir.Value:
    """A new float32 tensor that all readers of `value` take in its place; a graph output becomes it, an input stays."""
    new = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
    if value.is_graph_input():
        for reader, position in list(value.uses()):
            reader.replace_input_with(position, new)
    else:
        value.replace_all_uses_with(new, replace_graph_outputs=True)
    return new


def round_to(value: ir.Value, dtype: ir.DataType, rounded: ir.Value) -> tuple[ir.Node, ir.Node]:
    """Two Casts that write `value`, rounded to `dtype`, to the float32 tensor `rounded`; they are in no graph yet."""
    down = ir.node("Cast", [value], {"to": dtype}, name=f"{rounded.name}/round")
    half = down.outputs[0]
    half.name, half.type, half.shape = f"{rounded.name}/{dtype.name.lower()}", ir.TensorType(dtype), value.shape
    up = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{rounded.name}/widen", outputs=[rounded])
    return down, up


def save_emulation(model: ir.Model, target: Path) -> None:
    """Write `target`, with its weights in `target`.data where one file would exceed Protobuf's 2 GiB."""
    target.parent.mkdir(parents=True, exist_ok=True)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) < LARGEST_SINGLE_FILE:
        onnx_io.save_model(model, target)
    else:
        ir.save(model, target, external_data=f"{target.name}.data")
