"""Edits of an onnx_ir graph that every stage needs: constants, initializers, single uses, nodes in and out."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def read_constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or of a Constant node's output; None where the value depends on the input."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether `read_constant` would find an array; the content is not loaded."""
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def has_single_use(value: ir.Value) -> bool:
    """Whether one node input reads the tensor and it is not a graph output: its producer may change what it holds."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def is_single_use_initializer(value: ir.Value | None) -> bool:
    """Whether a weight has one reader only, so that changing it changes nothing else."""
    return value is not None and value.is_initializer() and has_single_use(value)


def find_single_reader(value: ir.Value) -> ir.Node | None:
    """The node that reads the tensor; None where several do, or none, or where the tensor is a graph output."""
    return next(iter(value.uses())).node if has_single_use(value) else None


def add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Register a new initializer under `name` or, where another initializer has that name, `name_1`, `name_2` …"""
    if name in graph.initializers:
        name = next(free for i in count(1) if (free := f"{name}_{i}") not in graph.initializers)
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def set_initializer(node: ir.Node, position: int, array: NDArray[Any], name: str) -> None:
    """Replace the content of the initializer at input `position`, or add one there (see `add_initializer`)."""
    current = node.inputs[position] if position < len(node.inputs) else None
    if current is not None:
        current.const_value = ir.tensor(np.ascontiguousarray(array), name=current.name)
        current.shape = ir.Shape(array.shape)
        return
    assert node.graph is not None
    value = add_initializer(node.graph, name, array)
    if position >= len(node.inputs):
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Remove the initializers that no node reads and that are not graph outputs."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def lift_constants(graph: ir.Graph) -> None:
    """Turn the graph's float32 Constant nodes into initializers, and drop graph inputs that name an initializer.

    Old exporters list every initializer as an input too; a rounded one could no longer be fed.
    """
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) < len(graph.inputs):
        graph.inputs[:] = inputs
    for node in list(graph):
        if node.op_type != "Constant" or node.outputs[0].is_graph_output():
            continue
        output, array = node.outputs[0], read_constant(node.outputs[0])
        if array is not None and array.dtype == np.float32:
            value = add_initializer(graph, output.name or "", array)
            ir.convenience.replace_all_uses_with(output, value)
            graph.remove(node, safe=True)


def bypass_node(node: ir.Node, replacement: ir.Value) -> None:
    """Remove `node`: readers of its output read `replacement`, which inherits name and shape of a graph output."""
    output = node.outputs[0]
    graph = node.graph
    assert graph is not None
    if output.is_graph_output():
        name, output.name = output.name, None
        replacement.name, replacement.shape = name, output.shape
    replacement.shape = replacement.shape or output.shape
    replacement.type = replacement.type or output.type
    output.replace_all_uses_with(replacement, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def insert_node_before(node: ir.Node, new: ir.Node) -> ir.Value:
    """Insert `new` before `node`, with the module path of `node`, and return its output."""
    assert node.graph is not None
    new.metadata_props.update(node.metadata_props)
    node.graph.insert_before(node, new)
    return new.outputs[0]
