"""Replaces an If whose condition is a constant by the branch that it takes.

    c = Constant(true)   y = If(c, then: t = f(x), else: …)   →   y = f(x)

Names inside of a branch get the If's own as a prefix, since another branch may have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def take_constant_branches(graph: onnx.GraphProto) -> None:
    """Replace every such If in place, those inside of a branch that is taken too."""
    while True:
        constants = _read_conditions(graph)
        found = [
            (index, constants[node.input[0]])
            for index, node in enumerate(graph.node)
            if node.op_type == "If" and node.domain in ("", "ai.onnx") and node.input[0] in constants
        ]
        if not found:
            return
        _take_branch(graph, *found[0])


def _read_conditions(graph: onnx.GraphProto) -> dict[str, bool]:
    """The boolean constants of the graph, by name."""
    from onnx import TensorProto, numpy_helper

    tensors = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], one.t) for one in node.attribute if one.name == "value")
    booleans = {name: one for name, one in tensors.items() if one.data_type == TensorProto.BOOL}
    return {name: bool(numpy_helper.to_array(one).all()) for name, one in booleans.items()}


def _take_branch(graph: onnx.GraphProto, index: int, condition: bool) -> None:
    from onnx import helper

    node = graph.node[index]
    wanted = "then_branch" if condition else "else_branch"
    branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
    names = {one: f"{node.output[0]}/{one}" for part in branch.node for one in part.output if one}
    names |= {one.name: f"{node.output[0]}/{one.name}" for one in branch.initializer}
    nodes = []
    for part in branch.node:
        _rename_reads(part, names)
        part.output[:] = [names.get(one, one) for one in part.output]
        part.name = f"{node.output[0]}/{part.name}" if part.name else ""
        nodes.append(part)
    for weight in branch.initializer:
        weight.name = names[weight.name]
        graph.initializer.append(weight)
    for inner, output in zip(branch.output, node.output, strict=True):
        nodes.append(helper.make_node("Identity", [names.get(inner.name, inner.name)], [output], name=f"{output}/out"))
    nodes = [*graph.node[:index], *nodes, *graph.node[index + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)


def _rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename what a node reads, in its own branches too, where those do not define the name again."""
    node.input[:] = [names.get(one, one) for one in node.input]
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            own = {one for part in graph.node for one in part.output} | {one.name for one in graph.initializer}
            outer = {name: new for name, new in names.items() if name not in own}
            for part in graph.node:
                _rename_reads(part, outer)
            for output in graph.output:
                output.name = outer.get(output.name, output.name)
