"""Compare a backend's own form of a graph with the form that the backend derives from the graph now.

A form is a function of the graph and of the code that writes it: written again, it has the same nodes and constants
under the same names. Bytes may differ, by the order of serialization.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.files import hash_file
from deploykit.core.values import Backend

if TYPE_CHECKING:
    import onnx_ir as ir


def audit_form(backend: Backend, graph: Path, form: Path) -> tuple[str, ...]:
    """Every difference between `form` and what `backend` makes of `graph`, as sentences.

    InputError or BackendError as from `backend.compile`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file in (graph, graph.with_name(f"{graph.name}.data")):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        derived = folder / backend.compile(folder / graph.name, folder).file.path
        if hash_file(derived) == hash_file(form):
            return ()
        return compare_graphs(derived, form)


def compare_graphs(expected: Path, given: Path) -> tuple[str, ...]:
    """How the graph in one file differs from the graph in another, whatever the order of nodes and constants."""
    import onnx_ir as ir

    graph, other = ir.load(expected).graph, ir.load(given).graph
    return (*_compare_interface(graph, other), *_compare_nodes(graph, other), *_compare_initializers(graph, other))


def _compare_interface(graph: ir.Graph, other: ir.Graph) -> Iterator[str]:
    for kind, values, others in (("inputs", graph.inputs, other.inputs), ("outputs", graph.outputs, other.outputs)):
        if [(value.name, value.dtype) for value in values] != [(value.name, value.dtype) for value in others]:
            yield f"its {kind} are not those of the graph"


def _compare_nodes(graph: ir.Graph, other: ir.Graph) -> Iterator[str]:
    nodes, others = ({_name_node(node): node for node in each} for each in (graph, other))
    for name in sorted(nodes.keys() | others.keys()):
        node, counterpart = nodes.get(name), others.get(name)
        if node is None or counterpart is None:
            yield f"{name}: this node is {'missing' if counterpart is None else 'not in the form that the graph has'}"
        elif _describe_node(node) != _describe_node(counterpart):
            yield f"{name}: its operator, its attributes or its tensors are not those of the form that the graph has"


def _describe_node(node: ir.Node) -> tuple[object, ...]:
    import onnx_ir as ir

    attributes = {name: ir.to_proto(attribute).SerializeToString() for name, attribute in node.attributes.items()}
    tensors = [[value and value.name for value in values] for values in (node.inputs, node.outputs)]
    return node.domain, node.op_type, attributes, tensors


def _compare_initializers(graph: ir.Graph, other: ir.Graph) -> Iterator[str]:
    for name in sorted(graph.initializers.keys() | other.initializers.keys()):
        value, counterpart = graph.initializers.get(name), other.initializers.get(name)
        tensor = None if value is None else value.const_value
        given = None if counterpart is None else counterpart.const_value
        if tensor is None or given is None:
            yield f"{name}: this constant is {'missing' if given is None else 'not in the form that the graph has'}"
        elif (tensor.dtype, tuple(tensor.shape)) != (given.dtype, tuple(given.shape)):
            yield f"{name}: this constant has another type or shape than in the form that the graph has"
        elif tensor.tobytes() != given.tobytes():
            different = (tensor.numpy() != given.numpy()).mean()
            yield f"{name}: {different:.1%} of this constant's values are not those of the form that the graph has"


def _name_node(node: ir.Node) -> str:
    return node.name or f"{node.outputs[0].name}"
