"""FP16 or BF16 as types in the graph: every node computes in 16 bits unless its values say otherwise.

    weights          rounded once, to nearest
    activations      16 bits between nodes of 16 bits; a Cast stands only where the precision changes
    inputs, outputs  float32 as in the graph that came in, or float16 if asked
    Q/DQ             INT8 codes as they are; their scales, and what the pairs stand between, in 16 bits

A node stays float32, and is listed with the value that made it so, when a tensor it reads or writes left the type's
range (float16: ±65,504) on real samples, when a constant does not fit, or when its operator has no form for the type.
Nothing is clamped. What an operator allows is read from onnx's schema, so this holds for any graph, not for a list of
operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.errors import InputError
from deploykit.core.files import record
from deploykit.core.values import InOut, KeptNode, Precision, Range, Ranges, TypedGraph
from deploykit.quantize import batchnorm_affine, clip_bounds, constants
from deploykit.quantize.cast_inserter import Borders
from deploykit.quantize.formats import FORMATS, HALF, Format, Name
from deploykit.quantize.fp32_fallback import PAIR, computing, excess, is_float, kept_nodes, require_opset

GRAPH_FILE = "model.onnx"


def cast(source: Path, ranges: Ranges, folder: Path, dtype: Name = "fp16", io: InOut = "fp32") -> TypedGraph:
    """Write `source` typed `dtype` into `folder`. `ranges` must know every float tensor that a node produces, but for
    what a DequantizeLinear gives.
    """
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file beside the source stays there
    kept = retype(model, ranges.tensors, dtype, io)
    folder.mkdir(parents=True, exist_ok=True)
    onnx_io.check(model)
    onnx_io.save(model, folder / GRAPH_FILE)
    quantized = any(node.op_type in PAIR for node in model.graph)
    precision: Precision = "int8-fp16" if quantized else dtype
    casts = sum(1 for node in model.graph if node.op_type == "Cast")
    return TypedGraph(files=(record(folder, GRAPH_FILE),), precision=precision, kept=kept, cast_nodes=casts)


def retype(
    model: ir.Model, ranges: Mapping[str, Range], dtype: Name = "fp16", io: InOut = "fp32"
) -> tuple[KeptNode, ...]:
    """Type an FP32 graph in place, with or without Q/DQ; the nodes that stayed FP32. `ranges` as for `cast`.

    Raises InputError where the opset is too old, where nothing can be typed, and where an input or output that should
    be float16 is beyond it; the graph may have been prepared by then and is not to be used.
    """
    to, graph = FORMATS[dtype], model.graph
    if dtype == "bf16" and any(node.op_type in PAIR for node in graph):
        raise InputError("INT8 is combined with FP16, not with BF16.", "Give --fp16 beside --int8.")
    require_opset(graph, to)
    constants.lift(graph)
    batchnorm_affine.absorb(graph, to)
    kept = kept_nodes(graph, ranges, to)
    _require_some(graph, kept, to)
    if io == "fp16":
        _require_ends(graph, ranges)
    computed = frozenset(computing(graph)) - kept.keys()
    quantizers = frozenset(node for node in graph if node.op_type == "QuantizeLinear" and not node.domain) - kept.keys()
    for node in computed:
        clip_bounds.drop_idle(node, to)
    Borders(graph, computed | quantizers, to, HALF.dtype if io == "fp16" else ir.DataType.FLOAT).draw()
    return tuple(kept.values())


def _require_some(graph: ir.Graph, kept: Mapping[ir.Node, KeptNode], to: Format) -> None:
    """Refuse a graph that would come out as it came in."""
    if all(node in kept for node in computing(graph)):
        reasons = [f" ({each.op_type} {each.node}: {each.reason})" for each in kept.values()][:1]
        raise InputError(
            f"No node of the graph can compute in {to.name}{''.join(reasons)}.",
            "Export it at FP32, or look at the values: deploykit inspect shows which tensors leave the type's range.",
        )


def _require_ends(graph: ir.Graph, ranges: Mapping[str, Range]) -> None:
    """Refuse inputs and outputs that float16 cannot carry."""
    for value in (*graph.inputs, *graph.outputs):
        if is_float(value) and (reason := excess(value, ranges, HALF)):
            raise InputError(f"{value.name} cannot be float16: {reason}.", "Give it --io fp32.")
