"""What is inside a graph, node by node."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.values import LayerRow
from deploykit.export.passes.names import MODULE


def layers(graph: Path) -> tuple[LayerRow, ...]:
    """One row per node, in the order of computation. InputError for a file that is no ONNX graph."""
    try:
        model = ir.load(graph)
        rows = tuple(_row(node) for node in model.graph)
    except Exception as error:  # protobuf and onnx-ir raise whatever they stumble over in a foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{graph} is not an ONNX graph: {reason}.", "Give an .onnx file.") from error
    if not model.graph.outputs:  # to protobuf, an empty file is a message without any field
        raise InputError(f"{graph} is not an ONNX graph: it has no output.", "Give an .onnx file.")
    return rows


def _row(node: ir.Node) -> LayerRow:
    output = node.outputs[0]
    weights = [ir.convenience.get_const_tensor(value) for value in node.inputs if value is not None]
    return LayerRow(
        name=node.name or "",
        op_type=node.op_type,
        module=node.metadata_props.get(MODULE, ""),
        dtype=output.dtype.name.lower() if output.dtype is not None else "?",
        shape=() if output.shape is None else tuple(s if isinstance(s, int) else str(s.value) for s in output.shape),
        weight_bytes=sum(tensor.nbytes for tensor in weights if tensor is not None),
    )
