"""Assign 16-bit types to selected nodes, and insert a Cast wherever their values meet float32.

    between two 16-bit nodes   no Cast
    16-bit next to float32     one Cast, shared by all readers on the other side
    constants                  a rounded copy
    Q/DQ                       a QuantizeLinear reads either type, and a DequantizeLinear takes the type of its readers:
                               the precision may change across a pair without a Cast

A pair's scales have the type of the tensor. A DequantizeLinear that is read in both types is duplicated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from deploykit.core.graph_edit import add_initializer, drop_unused_initializers, read_constant
from deploykit.quantize import dequantize, schemas
from deploykit.quantize.formats import Format
from deploykit.quantize.fp32_fallback import castable_inputs, is_float32

TYPE_AGNOSTIC: Final = frozenset({"Cast", "Shape", "Size"})
"""Operators whose output does not depend on the type of their input: they need no Cast before them."""

SUFFIX: Final = {ir.DataType.FLOAT: "float", ir.DataType.FLOAT16: "half", ir.DataType.BFLOAT16: "bfloat"}


class CastInserter:
    """Casts the nodes `selected` of one graph to `to`, and its float32 inputs and outputs to `interface_type`."""

    def __init__(self, graph: ir.Graph, selected: frozenset[ir.Node], to: Format, interface_type: ir.DataType) -> None:
        self._graph, self._to, self._interface_type = graph, to.dtype, interface_type
        self._inputs = {node: castable_inputs(node, to) for node in graph if node in selected}
        """Positions of the inputs that become 16 bits."""
        self._outputs = {node: schemas.retyped_outputs(node, inputs) for node, inputs in self._inputs.items()}
        """Positions of the outputs that become 16 bits with them."""
        self._quantizers = frozenset(n for n in graph if n in selected and n.op_type == "QuantizeLinear")
        self._retyped: set[ir.Value] = set()
        """Values that were float32 and have another type now."""
        self._converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        """Copies of a value in another type, by the value and that type."""
        outputs = [value for node in graph.all_nodes() for value in node.outputs]
        self._names = {value.name for value in (*graph.inputs, *graph.initializers.values(), *outputs)}

    def insert_casts(self) -> None:
        """Change the graph in place."""
        for value in self._graph.inputs:
            if is_float32(value) and self._interface_type != ir.DataType.FLOAT:
                self._set_dtype(value, self._interface_type)
        for node in list(self._graph):
            if dequantize.read_scale(node) is not None:
                self._retype_dequantize(node)
            for reader in _iterate_with_branches(node):
                self._cast_inputs(reader, node)
            for position in self._outputs.get(node, ()):
                if is_float32(node.outputs[position]):
                    self._set_dtype(node.outputs[position], self._to)
        for position, output in enumerate(list(self._graph.outputs)):
            dtype = self._interface_type if self._was_float32(output) else output.dtype
            if dtype is not None and output.dtype != dtype:
                self._graph.outputs[position] = self._cast_output(output, dtype)
        drop_unused_initializers(self._graph)

    def _cast_inputs(self, reader: ir.Node, before: ir.Node) -> None:
        """Convert the inputs of `reader` to the types that it requires; Casts are inserted before the node `before`."""
        for position, value in enumerate(reader.inputs):
            if value is None or not self._was_float32(value):
                continue
            dtype = self._required_dtype(reader, position, value)
            if value.dtype != dtype:
                reader.replace_input_with(position, self._convert_value(value, dtype, before))

    def _required_dtype(self, reader: ir.Node, position: int, value: ir.Value) -> ir.DataType:
        """The type in which `reader` must get a value that was float32."""
        if reader in self._quantizers:
            return _require_dtype(reader.inputs[0])
        if position in self._inputs.get(reader, ()):
            return self._to
        return _require_dtype(value) if reader.op_type in TYPE_AGNOSTIC else ir.DataType.FLOAT

    def _retype_dequantize(self, node: ir.Node) -> None:
        """Give a DequantizeLinear the type that its readers require, and duplicate it where they require two types.

        Type-agnostic readers take either.
        """
        value = node.outputs[0]
        readers = [(use.node, use.idx) for use in value.uses()]
        dtypes = {
            self._required_dtype(reader, position, value)
            for reader, position in readers
            if reader not in self._quantizers and reader.op_type not in TYPE_AGNOSTIC
        }
        if value.is_graph_output():
            dtypes.add(self._interface_type)
        if self._to not in dtypes:
            return
        if len(dtypes) > 1:
            name = self._reserve_name(value, ir.DataType.FLOAT)
            twin = ir.Node("", node.op_type, node.inputs, tuple(node.attributes.values()), name=name)
            twin.metadata_props.update(node.metadata_props)
            twin.outputs[0].name, twin.outputs[0].type, twin.outputs[0].shape = name, value.type, value.shape
            self._graph.insert_after(node, twin)
            self._converted[value, ir.DataType.FLOAT] = twin.outputs[0]
        scale = node.inputs[1]
        assert scale is not None
        node.replace_input_with(1, self._convert_value(scale, self._to, node))
        node.attributes.pop("output_dtype", None)
        self._set_dtype(value, self._to)

    def _convert_value(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """`value` as `dtype`: a rounded copy of a constant, or the output of one Cast that all its readers share."""
        if (value, dtype) not in self._converted:
            array = read_constant(value)
            if array is not None:
                rounded = array.astype(dtype.numpy())
                name = f"{value.name}/{rounded.dtype.name}"
                self._converted[value, dtype] = add_initializer(self._graph, name, rounded)
            else:
                cast = self._make_cast(value, dtype)
                self._graph.insert_before(before, cast)
                self._converted[value, dtype] = cast.outputs[0]
        return self._converted[value, dtype]

    def _cast_output(self, output: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The graph output cast to `dtype` under its own name; the tensor before the Cast gets a new name."""
        converted = self._converted.get((output, dtype))
        if converted is None:  # no node reads it in that type
            cast = self._make_cast(output, dtype)
            self._graph.append(cast)
            converted = cast.outputs[0]
        name, output.name = output.name, self._reserve_name(output, _require_dtype(output))
        converted.name = name
        return converted

    def _make_cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Node:
        name = self._reserve_name(value, dtype)
        node = ir.node("Cast", [value], {"to": dtype}, name=name)
        output = node.outputs[0]
        output.name, output.type, output.shape = name, ir.TensorType(dtype), value.shape
        return node

    def _reserve_name(self, value: ir.Value, dtype: ir.DataType) -> str:
        """An unused tensor name for `value` as `dtype`."""
        name = f"{value.name}/{SUFFIX[dtype]}"
        while name in self._names:
            name += "/"
        self._names.add(name)
        return name

    def _set_dtype(self, value: ir.Value, dtype: ir.DataType) -> None:
        value.type = ir.TensorType(dtype)
        self._retyped.add(value)

    def _was_float32(self, value: ir.Value) -> bool:
        return value in self._retyped or is_float32(value)


def _iterate_with_branches(node: ir.Node) -> Iterator[ir.Node]:
    """The node and the nodes in its branches, which may read tensors of the outer graph."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from (inner for graph in attribute.as_graphs() for inner in graph.all_nodes())


def _require_dtype(value: ir.Value | None) -> ir.DataType:
    assert value is not None
    assert value.dtype is not None
    return value.dtype
