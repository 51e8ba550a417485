"""The constants of a graph, all as initializers: found, added under a free name, dropped when nobody reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array, where the value is known before the network runs."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def lift(graph: ir.Graph) -> None:
    """Make initializers of the graph's floating-point Constant nodes, and constants of initializers that old exporters
    list as inputs too: rounded, they could no longer be fed.
    """
    fed = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(fed) < len(graph.inputs):
        graph.inputs[:] = fed
    for node in list(graph):
        if node.op_type != "Constant" or node.outputs[0].is_graph_output():
            continue
        array, name = constant(node.outputs[0]), node.outputs[0].name or ""
        if array is not None and array.dtype == np.float32:
            value = _register(graph, array, name)
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove(node, safe=True)


def add(graph: ir.Graph, array: NDArray[Any], name: str) -> ir.Value:
    """A new constant under `name` or, where that is taken, `name` with its type behind it."""
    while name in graph.initializers:
        name = f"{name}/{array.dtype.name}"
    return _register(graph, array, name)


def drop_unread(graph: ir.Graph) -> None:
    """Remove the constants that no node reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _register(graph: ir.Graph, array: NDArray[Any], name: str) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value
