"""Shared steps of the backends' own graph forms: finding Q/DQ pairs and writing the rewritten file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.files import explain_os_error


def dequantize_readers(quantize: ir.Node) -> list[ir.Node]:
    """The DequantizeLinear nodes that read a QuantizeLinear; empty where another operator reads its codes too."""
    readers = [use.node for use in quantize.outputs[0].uses()]
    if quantize.outputs[0].is_graph_output() or any(reader.op_type != "DequantizeLinear" for reader in readers):
        return []
    return readers


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
