"""Lists the nodes of a graph, for `deploykit inspect`."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.values import LayerRow


def read_layer_rows(graph: Path) -> tuple[LayerRow, ...]:
    """Return one row per node, in execution order. Raises InputError for a file that is not an ONNX graph."""
    try:
        model = ir.load(graph)
        rows = tuple(_layer_row(node) for node in model.graph)
    except Exception as error:  # protobuf and onnx-ir raise many types on a foreign file
        raise InputError(f"{graph} is not an ONNX graph: {first_line(error)}.", "Give an .onnx file.") from error
    if not model.graph.outputs:  # to protobuf, an empty file is a message without fields
        raise InputError(f"{graph} is not an ONNX graph: it has no output.", "Give an .onnx file.")
    return rows


def _layer_row(node: ir.Node) -> LayerRow:
    output = node.outputs[0]
    weights = [ir.convenience.get_const_tensor(value) for value in node.inputs if value is not None]
    return LayerRow(
        name=node.name or "",
        op_type=node.op_type,
        module=node.metadata_props.get(MODULE_KEY, ""),
        dtype=output.dtype.name.lower() if output.dtype is not None else "?",
        shape=() if output.shape is None else tuple(s if isinstance(s, int) else str(s.value) for s in output.shape),
        weight_bytes=sum(tensor.nbytes for tensor in weights if tensor is not None),
    )
