"""Compare a backend's own form of a graph with the form that the backend derives from the graph now.

A form is a function of the graph and of the code that writes it: written again, it has the same nodes and constants
under the same names. Bytes may differ, by the order of serialization.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.core.files import hash_file
from deploykit.core.onnx_io import external_data_path, place_graph
from deploykit.core.values import Backend, FormWriter

if TYPE_CHECKING:
    import onnx_ir as ir


def audit_form(backend: Backend, graph: Path, form: Path) -> tuple[str, ...]:
    """Every difference between `form` and what `backend` makes of `graph`, as sentences.

    InputError or BackendError as from `backend.compile`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / graph.name
        place_graph(graph, own)
        if isinstance(backend, FormWriter):
            derived = backend.write_form(own, own.parent)
        else:
            derived = own.parent / backend.compile(own, own.parent).file.path
        if _hash_graph(derived) == _hash_graph(form):
            return ()
        return compare_graphs(derived, form)


def _hash_graph(graph: Path) -> list[str]:
    return [hash_file(file) for file in (graph, external_data_path(graph)) if file.is_file()]


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
    nodes, others = ({node.outputs[0].name: node for node in each} for each in (graph, other))
    for output, node in nodes.items():
        if output not in others:
            yield f"{node.name or output}: this {node.op_type} is missing"
        elif _describe_node(node) != _describe_node(others[output]):
            yield f"{node.name or output}: this {node.op_type} has another operator, other attributes or other tensors"
    for output in others.keys() - nodes.keys():
        yield f"{others[output].name or output}: this {others[output].op_type} is not in the form that the graph has"


def _describe_node(node: ir.Node) -> tuple[object, ...]:
    import onnx_ir as ir

    attributes = {name: ir.to_proto(attribute).SerializeToString() for name, attribute in node.attributes.items()}
    tensors = [[value and value.name for value in values] for values in (node.inputs, node.outputs)]
    return node.name, node.domain, node.op_type, attributes, tensors


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
