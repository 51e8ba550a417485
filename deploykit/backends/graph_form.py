"""Shared steps of the backends' own graph forms: finding Q/DQ pairs, removing what is unread, writing the file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.files import explain_os_error
from deploykit.core.graph_edit import drop_unused_initializers


def dequantize_readers(quantize: ir.Node) -> list[ir.Node]:
    """The DequantizeLinear nodes that read a QuantizeLinear; empty where another operator reads its codes too."""
    readers = [use.node for use in quantize.outputs[0].uses()]
    if quantize.outputs[0].is_graph_output() or any(reader.op_type != "DequantizeLinear" for reader in readers):
        return []
    return readers


def find_pair(value: ir.Value | None) -> ir.Node | None:
    """The QuantizeLinear of the Q/DQ pair that writes a tensor; None where no pair does."""
    dequantize = None if value is None else value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return None
    quantize = dequantize.inputs[0].producer()
    return quantize if quantize is not None and quantize.op_type == "QuantizeLinear" else None


def remove_unread_nodes(graph: ir.Graph) -> None:
    """Remove nodes without readers, and constants that only they read."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    drop_unused_initializers(graph)


def write_form(model: ir.Model, path: Path) -> None:
    """Write the file, and its external data if it needs any, atomically: another process may be compiling the same
    graph into the same folder.

    InputError where `path` cannot be written.
    """
    ir.external_data.load_to_model(model)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.parent) as folder:
            partial = Path(folder) / path.name  # under its final name, by which it refers to its external data
            for name in reversed(onnx_io.save_model(model, partial)):  # the graph last
                partial.with_name(name).replace(path.with_name(name))
    except OSError as error:
        raise explain_os_error(error, path, "Free some space, or choose a folder that can be written.") from error
