"""A backend's own form of a graph: what its rewrites share, and how the file is written beside the engine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core import onnx_io
from deploykit.core.files import explained


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A constant of the graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def dequantize_readers(quantize: ir.Node) -> list[ir.Node]:
    """The DequantizeLinear nodes behind a QuantizeLinear; none where something else reads its codes as well."""
    readers = [use.node for use in quantize.outputs[0].uses()]
    if quantize.outputs[0].is_graph_output() or any(reader.op_type != "DequantizeLinear" for reader in readers):
        return []
    return readers


def write_form(model: ir.Model, path: Path) -> None:
    """Whole or not at all: another process may be compiling the same graph into the same folder.

    InputError where `path` cannot be written.
    """
    ir.external_data.load_to_model(model)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        onnx_io.save(model, partial)
        partial.replace(path)
    except OSError as error:
        raise explained(error, path, "Free some space, or choose a folder that can be written.") from error
    finally:
        partial.unlink(missing_ok=True)
