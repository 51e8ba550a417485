"""The few cuts that passes are made of: reading a constant, replacing a weight, taking a node out of the graph."""

from __future__ import annotations

from itertools import chain, count
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array behind an initializer or a Constant node, if that is what the value is."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def private(value: ir.Value | None) -> bool:
    """Whether a weight has one reader only, so that changing it changes nothing else."""
    return value is not None and value.is_initializer() and len(value.uses()) == 1 and not value.is_graph_output()


def read_only_here(value: ir.Value) -> bool:
    """Whether a tensor has one reader and is not an output: its producer may change what it holds."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def set_weight(node: ir.Node, position: int, array: NDArray[Any], name: str) -> None:
    """Give `node` an initializer at input `position`: the one it has, with new content, or a new one called `name`
    (or, where another weight has that name, `name_1` …).
    """
    held = node.inputs[position] if position < len(node.inputs) else None
    if held is not None:
        held.const_value = ir.tensor(np.ascontiguousarray(array), name=held.name)
        held.shape = ir.Shape(array.shape)
        return
    assert node.graph is not None
    taken = node.graph.initializers
    free = next(each for each in chain([name], (f"{name}_{i}" for i in count(1))) if each not in taken)
    tensor = ir.tensor(np.ascontiguousarray(array), name=free)
    value = ir.Value(name=free, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    node.graph.register_initializer(value)
    if position >= len(node.inputs):
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)


def bypass(node: ir.Node, replacement: ir.Value) -> None:
    """Take `node` out: whoever read its output reads `replacement`, which inherits name and shape of a graph output."""
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


def insert_before(node: ir.Node, new: ir.Node) -> ir.Value:
    """Put `new` in front of `node`, with its module path, and hand back its output."""
    assert node.graph is not None
    new.metadata_props.update(node.metadata_props)
    node.graph.insert_before(node, new)
    return new.outputs[0]
