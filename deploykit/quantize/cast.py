"""Cast a graph to FP16 or BF16: every node computes in 16 bits unless its values do not fit.

    weights          rounded once, to nearest
    activations      16 bits between 16-bit nodes; Casts only where the precision changes
    inputs, outputs  float32 as in the source graph, or float16 on request
    Q/DQ             INT8 codes unchanged; scales and the operators between the pairs in 16 bits

A node stays float32, and is reported with the reason, where a tensor that it reads or writes exceeded the type's range
(float16: ±65,504) on real samples, where a constant does not fit, or where its operator does not support the type.
Nothing is clamped. The types that an operator supports are read from onnx's schemas, so this works for any graph
instead of a list of operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.errors import InputError
from deploykit.core.files import record_file
from deploykit.core.graph_edit import lift_constants
from deploykit.core.values import Fp32Node, IoType, Precision, PrecisionGraphRecord, Range, Ranges
from deploykit.quantize import batchnorm_affine, clip_bounds
from deploykit.quantize.cast_inserter import CastInserter
from deploykit.quantize.formats import FORMATS, HALF, Format, FormatName
from deploykit.quantize.fp32_fallback import (
    QDQ_OPERATORS,
    explain_out_of_range,
    find_fp32_nodes,
    is_float32,
    list_floating_nodes,
    require_opset,
)

GRAPH_FILE = "model.onnx"


def write_cast_graph(
    source: Path, ranges: Ranges, folder: Path, dtype: FormatName = "fp16", io: IoType = "fp32"
) -> PrecisionGraphRecord:
    """Write `source`, cast to `dtype`, into `folder`.

    `ranges` must hold every float tensor that a node produces, except outputs of DequantizeLinear.
    """
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file next to the source stays there
    fp32_nodes = cast_model(model, ranges.tensors, dtype, io)
    folder.mkdir(parents=True, exist_ok=True)
    onnx_io.check_model(model)
    files = tuple(record_file(folder, name) for name in onnx_io.save_model(model, folder / GRAPH_FILE))
    quantized = any(node.op_type in QDQ_OPERATORS for node in model.graph)
    precision: Precision = "int8-fp16" if quantized else dtype
    casts = sum(1 for node in model.graph if node.op_type == "Cast")
    return PrecisionGraphRecord(files=files, precision=precision, fp32_nodes=fp32_nodes, cast_nodes=casts)


def cast_model(
    model: ir.Model, ranges: Mapping[str, Range], dtype: FormatName = "fp16", io: IoType = "fp32"
) -> tuple[Fp32Node, ...]:
    """Cast an FP32 graph, with or without Q/DQ, in place; return the nodes that stay FP32.

    `ranges` as for `write_cast_graph`. Raises InputError where the opset is too old, where no node can be cast, and
    where an input or output exceeds the requested float16. After an error the model may be partly changed: discard it.
    """
    to, graph = FORMATS[dtype], model.graph
    if dtype == "bf16" and any(node.op_type in QDQ_OPERATORS for node in graph):
        raise InputError("INT8 is combined with FP16, not with BF16.", "Use --int8 with --fp16.")
    require_opset(graph, to)
    lift_constants(graph)
    batchnorm_affine.fold_statistics(graph, to)
    fp32_nodes = find_fp32_nodes(graph, ranges, to)
    _require_castable_node(graph, fp32_nodes, to)
    if io == "fp16":
        _require_fp16_interface(graph, ranges)
    computed = frozenset(list_floating_nodes(graph)) - fp32_nodes.keys()
    quantizers = frozenset(node for node in graph if node.op_type == "QuantizeLinear" and not node.domain)
    for node in computed:
        clip_bounds.drop_unreachable_bounds(node, to)
    interface_type = HALF.dtype if io == "fp16" else ir.DataType.FLOAT
    CastInserter(graph, computed | (quantizers - fp32_nodes.keys()), to, interface_type).insert_casts()
    return tuple(fp32_nodes.values())


def _require_castable_node(graph: ir.Graph, fp32_nodes: Mapping[ir.Node, Fp32Node], to: Format) -> None:
    """Refuse a graph that the cast would not change."""
    if all(node in fp32_nodes for node in list_floating_nodes(graph)):
        first = [f" ({node.op_type} {node.node}: {node.reason})" for node in fp32_nodes.values()][:1]
        raise InputError(
            f"No node of the graph can compute in {to.name}{''.join(first)}.",
            "Export it at FP32: leave out --fp16 and --bf16.",
        )


def _require_fp16_interface(graph: ir.Graph, ranges: Mapping[str, Range]) -> None:
    """Refuse inputs and outputs whose values exceed float16."""
    for value in (*graph.inputs, *graph.outputs):
        if is_float32(value) and (reason := explain_out_of_range(value, ranges, HALF)):
            raise InputError(f"{value.name} cannot be float16: {reason}.", "Use --io fp32.")
