"""Shared steps of the backends' own graph forms: finding Q/DQ pairs and writing the rewritten file."""

from __future__ import annotations

import os
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
    """Write the file atomically: another process may be compiling the same graph into the same folder.

    InputError where `path` cannot be written.
    """
    ir.external_data.load_to_model(model)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        onnx_io.save_model(model, partial)
        partial.replace(path)
    except OSError as error:
        raise explain_os_error(error, path, "Free some space, or choose a folder that can be written.") from error
    finally:
        partial.unlink(missing_ok=True)
