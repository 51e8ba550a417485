"""Nodes and tensors are called after the PyTorch module that made them.

    layer1.0.conv1/Conv      the node, and the tensor it produces
    layer1.0.conv1.weight    a parameter, as in the state dict

Both exporters record the module's path, each in its way; stack traces and other private notes of theirs are dropped,
as they would put paths of the exporting machine into the file.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.values import Rewrite

WRAPPER = "network"
"""The attribute under which the served wrapper holds the user's module; names drop it."""

MODULE = "deploykit.module"
"""Metadata key of a node: its module's dotted path."""


def apply(model: ir.Model) -> Rewrite:
    """Name every node, what it gives, and every parameter; drop private notes; count the nodes. Nothing is refused.

    Inputs and outputs of the graph keep their names, and so does a parameter whose own name is taken. A node's module
    stays with it as metadata, under `MODULE`, so that names can be given again.
    """
    graph = model.graph
    paths = [_without_wrapper(module_path(node)) for node in graph]
    _forget(model)
    _name_parameters(graph)
    # A constant that was folded keeps the name of the node that had computed it.
    taken: Counter[str] = Counter()
    held = {value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    for node, path in zip(graph, paths, strict=True):
        node.name = _free(f"{path}/{node.op_type}" if path else node.op_type, taken, held)
        for position, output in enumerate(node.outputs):
            if not output.is_graph_output():
                output.name = node.name if position == 0 else f"{node.name}:{position}"
        node.metadata_props[MODULE] = path
    graph.name = "main"
    return Rewrite("names", len(graph))


def _free(name: str, taken: Counter[str], held: set[str | None]) -> str:
    """`name`, or the first of `name_1`, `name_2` … that is neither given yet nor held by a constant."""
    while True:
        numbered = f"{name}_{taken[name]}" if taken[name] else name
        taken[name] += 1
        if numbered not in held:
            return numbered


def _forget(model: ir.Model) -> None:
    """Drop every private note of an exporter: of the model, the graph and its branches, of nodes and of values."""
    common.ClearMetadataAndDocStringPass()(model)
    outputs = (output for node in model.graph.all_nodes() for output in node.outputs)
    for value in (*model.graph.inputs, *outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.doc_string = None


def _name_parameters(graph: ir.Graph) -> None:
    """Names of the user's module, unless the wrapper itself, an input or an output has that name already."""
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    for initializer in list(graph.initializers.values()):
        name = _without_wrapper(initializer.name or "")
        if name not in taken and name not in graph.initializers:
            initializer.name = name


def module_path(node: ir.Node) -> str:
    """Dotted path of the module whose forward() issued this node; empty for the outermost one."""
    if MODULE in node.metadata_props:
        return node.metadata_props[MODULE]
    if scopes := node.metadata_props.get("pkg.torch.onnx.name_scopes"):
        return _dynamo_path(ast.literal_eval(scopes))
    return _torchscript_path(node.name or "")


def _dynamo_path(scopes: list[str]) -> str:
    """`['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']`: full paths, then the function's own name."""
    modules = [scope for scope in scopes[:-1] if not scope.startswith("_")]
    return modules[-1] if modules else ""


def _torchscript_path(name: str) -> str:
    """`/layer1/layer1.0/conv1/Conv`: names relative to the parent, but children of a Sequential repeat its name."""
    parts: list[str] = []
    parent = ""
    for scope in name.strip("/").split("/")[:-1]:
        parts.append(scope.removeprefix(parent + ".") if parent else scope)
        parent = scope
    return ".".join(parts)


def _without_wrapper(path: str) -> str:
    return "" if path == WRAPPER else path.removeprefix(WRAPPER + ".")
