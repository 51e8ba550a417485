"""Names nodes and tensors after the PyTorch module that issued them.

    layer1.0.conv1/Conv      a node, and its first output
    layer1.0.conv1.weight    a parameter, as in the state dict

Both exporters record the module's path, in different forms. Their stack traces and other metadata are dropped: they
would put paths of the exporting machine into the file.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.values import Rewrite

WRAPPER = "network"
"""The attribute of `ExportModule` that holds the user's module; names omit it."""


def apply(model: ir.Model) -> Rewrite:
    """Name every node, its outputs and every parameter; drop the exporters' metadata; count the nodes. None is skipped.

    Inputs and outputs of the graph keep their names, and so does a parameter whose new name is in use. The path of a
    node's module is kept as metadata, under `MODULE_KEY`, so that later passes can run this one again.
    """
    graph = model.graph
    paths = [_without_wrapper(module_path(node)) for node in graph]
    _clear_exporter_metadata(model)
    _name_parameters(graph)
    # A folded constant keeps the name of the node that computed it.
    counts: Counter[str] = Counter()
    reserved = {value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    for node, path in zip(graph, paths, strict=True):
        node.name = _unique_name(f"{path}/{node.op_type}" if path else node.op_type, counts, reserved)
        for position, output in enumerate(node.outputs):
            if not output.is_graph_output():
                output.name = node.name if position == 0 else f"{node.name}:{position}"
        node.metadata_props[MODULE_KEY] = path
    graph.name = "main"
    return Rewrite("names", len(graph))


def _unique_name(name: str, counts: Counter[str], reserved: set[str | None]) -> str:
    """Return `name`, or the first of `name_1`, `name_2` … that is neither used by a node yet nor reserved."""
    while True:
        numbered = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
        if numbered not in reserved:
            return numbered


def _clear_exporter_metadata(model: ir.Model) -> None:
    """Clear the exporters' metadata and doc strings of the model, its graphs, nodes and values."""
    common.ClearMetadataAndDocStringPass()(model)
    outputs = (output for node in model.graph.all_nodes() for output in node.outputs)
    for value in (*model.graph.inputs, *outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.doc_string = None


def _name_parameters(graph: ir.Graph) -> None:
    """Give parameters the names of the user's module, where no other value of the graph has that name."""
    interface = {value.name for value in (*graph.inputs, *graph.outputs)}
    for initializer in list(graph.initializers.values()):
        name = _without_wrapper(initializer.name or "")
        if name not in interface and name not in graph.initializers:
            initializer.name = name


def module_path(node: ir.Node) -> str:
    """Return the dotted path of the module whose forward() issued the node; empty for the outermost module."""
    if MODULE_KEY in node.metadata_props:
        return node.metadata_props[MODULE_KEY]
    if scopes := node.metadata_props.get("pkg.torch.onnx.name_scopes"):
        return _dynamo_path(ast.literal_eval(scopes))
    return _torchscript_path(node.name or "")


def _dynamo_path(scopes: list[str]) -> str:
    """From `['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']`: full paths, then the function's name."""
    modules = [scope for scope in scopes[:-1] if not scope.startswith("_")]
    return modules[-1] if modules else ""


def _torchscript_path(name: str) -> str:
    """From `/layer1/layer1.0/conv1/Conv`: names relative to the parent; children of a Sequential repeat its name."""
    parts: list[str] = []
    parent = ""
    for scope in name.strip("/").split("/")[:-1]:
        parts.append(scope.removeprefix(parent + ".") if parent else scope)
        parent = scope
    return ".".join(parts)


def _without_wrapper(path: str) -> str:
    return "" if path == WRAPPER else path.removeprefix(WRAPPER + ".")
