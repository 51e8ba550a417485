"""Types and Casts: some nodes get 16-bit inputs and outputs, and a Cast stands where their values meet float32.

    between two 16-bit nodes   nothing
    at a border                one Cast, which all readers on the other side share
    constants                  a rounded copy
    Q/DQ                       a QuantizeLinear takes its input as it comes, and a DequantizeLinear restores to what its
                               readers want, so that a border may run through a pair without any Cast

The type of a scale follows: float16 beside float16. A DequantizeLinear that both sides read is there twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from deploykit.quantize import constants, dequantize, schemas
from deploykit.quantize.formats import Format
from deploykit.quantize.fp32_fallback import is_float, retyped_inputs

READS_ANY: Final = frozenset({"Cast", "Shape", "Size"})
"""Operators that give the same answer whatever the type of their input, and so never need a Cast before them."""

SUFFIX: Final = {ir.DataType.FLOAT: "float", ir.DataType.FLOAT16: "half", ir.DataType.BFLOAT16: "bfloat"}


class Borders:
    """One graph whose nodes `chosen` are given the type `to`, and its float inputs and outputs the type `ends`."""

    def __init__(self, graph: ir.Graph, chosen: frozenset[ir.Node], to: Format, ends: ir.DataType) -> None:
        self._graph, self._to, self._ends = graph, to.dtype, ends
        self._retyped = {node: retyped_inputs(node, to) for node in graph if node in chosen}
        self._following = {node: schemas.followers(node, inputs) for node, inputs in self._retyped.items()}
        self._quantizers = frozenset(n for n in graph if n in chosen and n.op_type == "QuantizeLinear")
        self._floats: set[ir.Value] = set()
        """Values that were float32 and are not now."""
        self._others: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        """Values in another type, by what they were and what they are now."""
        outputs = [value for node in graph.all_nodes() for value in node.outputs]
        self._names = {value.name for value in (*graph.inputs, *graph.initializers.values(), *outputs)}

    def draw(self) -> None:
        """Change the graph."""
        for value in self._graph.inputs:
            if is_float(value) and self._ends != ir.DataType.FLOAT:
                self._change(value, self._ends)
        for node in list(self._graph):
            if dequantize.scale(node) is not None:
                self._restore(node)
            for reader in _readers(node):
                self._connect(reader, node)
            for position in self._following.get(node, ()):
                if is_float(node.outputs[position]):
                    self._change(node.outputs[position], self._to)
        for position, output in enumerate(list(self._graph.outputs)):
            wanted = self._ends if self._was_float(output) else output.dtype
            if wanted is not None and output.dtype != wanted:
                self._graph.outputs[position] = self._ending(output, wanted)
        constants.drop_unread(self._graph)

    def _connect(self, reader: ir.Node, before: ir.Node) -> None:
        """Give a node its inputs in the types that it reads; Casts go in front of `before`."""
        for position, value in enumerate(reader.inputs):
            if value is None or not self._was_float(value):
                continue
            wanted = self._wanted(reader, position, value)
            if value.dtype != wanted:
                reader.replace_input_with(position, self._as(value, wanted, before))

    def _wanted(self, reader: ir.Node, position: int, value: ir.Value) -> ir.DataType:
        """The type in which a node reads what was float32."""
        if reader in self._quantizers:
            return _dtype(reader.inputs[0])
        if position in self._retyped.get(reader, ()):
            return self._to
        return _dtype(value) if reader.op_type in READS_ANY else ir.DataType.FLOAT

    def _restore(self, node: ir.Node) -> None:
        """Give a DequantizeLinear the type of those that read it, or a twin where they are not of one mind; some read
        whatever it has.
        """
        value = node.outputs[0]
        uses = [use for use in value.uses() if use.node not in self._quantizers and use.node.op_type not in READS_ANY]
        wanted = {self._wanted(use.node, use.idx, value) for use in uses}
        if value.is_graph_output():
            wanted.add(self._ends)
        if self._to not in wanted:
            return
        if len(wanted) > 1:
            name = self._free(value, ir.DataType.FLOAT)
            twin = ir.Node("", node.op_type, node.inputs, tuple(node.attributes.values()), name=name)
            twin.metadata_props.update(node.metadata_props)
            twin.outputs[0].name, twin.outputs[0].type, twin.outputs[0].shape = name, value.type, value.shape
            self._graph.insert_after(node, twin)
            self._others[value, ir.DataType.FLOAT] = twin.outputs[0]
        scale = node.inputs[1]
        assert scale is not None
        node.replace_input_with(1, self._as(scale, self._to, node))
        node.attributes.pop("output_dtype", None)
        self._change(value, self._to)

    def _as(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """`value` as `dtype`: a rounded copy of a constant, or the one Cast that all its readers share."""
        if (value, dtype) not in self._others:
            array = constants.constant(value)
            if array is not None:
                name = f"{value.name}" if value.is_initializer() else f"{value.name}/{dtype.name.lower()}"
                self._others[value, dtype] = constants.add(self._graph, array.astype(dtype.numpy()), name)
            else:
                cast = self._cast(value, dtype)
                self._graph.insert_before(before, cast)
                self._others[value, dtype] = cast.outputs[0]
        return self._others[value, dtype]

    def _ending(self, output: ir.Value, dtype: ir.DataType) -> ir.Value:
        """An output under its old name, behind a Cast from the tensor that now carries another one."""
        ending = self._others.get((output, dtype))
        if ending is None:  # no node reads it in that type
            cast = self._cast(output, dtype)
            self._graph.append(cast)
            ending = cast.outputs[0]
        name, output.name = output.name, self._free(output, _dtype(output))
        ending.name = name
        return ending

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Node:
        name = self._free(value, dtype)
        node = ir.node("Cast", [value], {"to": dtype}, name=name)
        output = node.outputs[0]
        output.name, output.type, output.shape = name, ir.TensorType(dtype), value.shape
        return node

    def _free(self, value: ir.Value, dtype: ir.DataType) -> str:
        """A name for `value` as `dtype` that no other tensor has."""
        name = f"{value.name}/{SUFFIX[dtype]}"
        while name in self._names:
            name += "/"
        self._names.add(name)
        return name

    def _change(self, value: ir.Value, dtype: ir.DataType) -> None:
        value.type = ir.TensorType(dtype)
        self._floats.add(value)

    def _was_float(self, value: ir.Value) -> bool:
        return value in self._floats or is_float(value)


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    """The node itself, and the nodes in its branches: they may read tensors from outside."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from (inner for graph in attribute.as_graphs() for inner in graph.all_nodes())


def _dtype(value: ir.Value | None) -> ir.DataType:
    assert value is not None
    assert value.dtype is not None
    return value.dtype
