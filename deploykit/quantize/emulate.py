"""Emulate a graph typed FP16 or BF16 in FP32, with every rounding that the graph asks for.

    weights          the 16-bit numbers, stored as float32
    16-bit nodes     compute and accumulate in FP32, as tensor cores do; each 16-bit output is rounded
    FP32 nodes       unchanged
    Q/DQ             unchanged; a DequantizeLinear with 16-bit scales has its output rounded. A QuantizeLinear divides
                     in FP32 and rounds once, to the code
    inputs, outputs  float32; a 16-bit one holds rounded numbers

What a runtime computes with this graph does not depend on its arithmetic for the type, nor on the precision in which it
keeps tensors between nodes: a CPU gives the answer that real 16-bit hardware must be close to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from deploykit.quantize.rounding import find_rounding_place, is_exact, replace_readers, round_to, save_emulation

SHORT: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
TYPE_ATTRIBUTES: Final = ("dtype", "output_dtype", "softmax_precision", "qk_matmul_precision")
"""Attributes that name the type in which an operator computes or returns."""


def write_rounded_graph(graph: Path, target: Path) -> None:
    """Write the FP32 emulation of `graph`, a graph typed FP16 or BF16, to `target`.

    Names of inputs and outputs, and of the tensors between nodes, stay. Only types of 16 bits change: the caller casts
    float16 inputs to float32.
    """
    model = ir.load(graph)
    ir.external_data.load_to_model(model)  # `target` does not refer to the data file next to the source
    if any(value.type is None for node in model.graph.all_nodes() for value in node.outputs if value.name):
        ShapeInferencePass()(model)
    _round_graph(model)
    save_emulation(model, target)


def _round_graph(model: ir.Model) -> None:
    nodes = list(model.graph.all_nodes())
    inputs = [(value, value.dtype) for value in model.graph.inputs if value.dtype in SHORT and value.uses()]
    outputs = [(value, value.dtype) for node in nodes if _computes(node) for value in node.outputs]
    for node in nodes:
        _keep_cast_to_target(node)
    for value in list(_iterate_values(model.graph, nodes)):
        _widen(value)
    for node in nodes:
        _widen_attributes(node)
    for value, dtype in {find_rounding_place(value): dtype for value, dtype in outputs if dtype in SHORT}.items():
        _round_output(value, dtype)
    for value, dtype in inputs:
        rounded = replace_readers(value, f"{value.name}/rounded")
        model.graph.insert_before(model.graph[0], round_to(value, dtype, rounded))


def _computes(node: ir.Node) -> bool:
    """Whether 16-bit outputs of the node need rounding."""
    return not is_exact(node) and node.op_type != "Constant"


def _round_output(value: ir.Value, dtype: ir.DataType) -> None:
    """Round the output of a node; the rounded tensor takes its name."""
    producer, name = value.producer(), value.name or ""
    assert producer is not None
    assert producer.graph is not None
    value.name = f"{name}/unrounded"
    producer.graph.insert_after(producer, round_to(value, dtype, replace_readers(value, name)))


def _iterate_values(graph: ir.Graph, nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    """Every tensor of the graph and of its branches, whose nodes are `nodes`."""
    graphs = {graph, *(node.graph for node in nodes if isinstance(node.graph, ir.Graph))}
    for owner in graphs:
        yield from (*owner.inputs, *owner.initializers.values())
    yield from (output for node in nodes for output in node.outputs)


def _widen(value: ir.Value) -> None:
    """Make a 16-bit tensor, or a sequence of them, float32; a constant holds the same numbers."""
    if value.dtype not in SHORT:
        return
    if isinstance(value.type, ir.TensorType):
        value.type = ir.TensorType(ir.DataType.FLOAT)  # a type object may be shared
    else:
        value.dtype = ir.DataType.FLOAT
    if value.const_value is not None and value.is_initializer():
        value.const_value = _widen_tensor(value.const_value)


def _widen_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(np.ascontiguousarray(tensor.numpy().astype(np.float32)), name=tensor.name)


def _keep_cast_to_target(node: ir.Node) -> None:
    """Make a CastLike whose output is 16-bit a Cast to that type: the tensor that it imitates becomes float32."""
    if node.op_type == "CastLike" and node.domain == "" and (dtype := node.outputs[0].dtype) in SHORT:
        assert dtype is not None
        node.op_type = "Cast"
        node.resize_inputs(1)
        node.attributes["to"] = ir.AttrInt64("to", dtype.value)


def _widen_attributes(node: ir.Node) -> None:
    """Give a node float32 where its attributes say a 16-bit type or hold 16-bit constants.

    A Cast to a 16-bit type becomes one to float32: its output is rounded like any other.
    """
    for name in (*TYPE_ATTRIBUTES, *(["to"] if node.op_type == "Cast" else [])):
        if name in node.attributes and node.attributes.get_int(name, 0) in {dtype.value for dtype in SHORT}:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in SHORT:
            node.attributes[name] = ir.AttrTensor(name, _widen_tensor(attribute.as_tensor()))
