"""The floor of a 16-bit type: what rounding to it must cost a network at least, whatever cast and engine do.

    weights, inputs, activations   rounded to the type and back
    arithmetic                     FP32
    what would not fit             stays FP32: a number that rounding would make infinite, or zero where it was not
    statistics of BatchNormalization, arithmetic on shapes, parameters without a 16-bit form, branches   stay FP32

The emulation reads the exported FP32 graph and shares no decision with the cast that it is to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.graph_edit import add_initializer, drop_unused_initializers, lift_constants, read_constant
from deploykit.quantize.formats import FORMATS, Format, FormatName
from deploykit.quantize.rounding import (
    find_rounding_place,
    is_exact,
    is_float32,
    replace_readers,
    round_to,
    save_emulation,
)

SHAPE_OPERATORS: Final = frozenset({"Shape", "Size"})
"""Operators whose output does not depend on the values of their input."""

MEAN, VARIANCE = 3, 4
"""Positions of the statistics among the inputs of BatchNormalization."""


def write_floor_graph(graph: Path, dtype: FormatName, target: Path) -> None:
    """Write `graph`, the exported FP32 graph, to `target` with every weight and activation rounded to `dtype`.

    Names, shapes and types of inputs and outputs stay. No rounding makes a finite number infinite or a non-zero one
    zero; where a network subtracts nearly equal numbers and takes the root, even so small a change may give NaN.
    """
    model = ir.load(graph)
    ir.external_data.load_to_model(model)  # `target` does not refer to the data file next to the source
    _round_graph(model.graph, FORMATS[dtype])
    save_emulation(model, target)


def _round_graph(graph: ir.Graph, to: Format) -> None:
    lift_constants(graph)
    varying = _find_varying_values(graph)
    computing = [node for node in graph if any(output in varying for output in node.outputs)]
    _round_weights(graph, computing, to)
    outputs = [value for node in computing if not is_exact(node) for value in node.outputs]
    for value in dict.fromkeys(find_rounding_place(value) for value in outputs if is_float32(value)):
        producer, name = value.producer(), value.name or ""
        assert producer is not None
        value.name = f"{name}/unrounded"
        graph.insert_after(producer, _round_where_it_fits(value, to, replace_readers(value, name)))
    for value in [value for value in graph.inputs if is_float32(value) and value.uses()]:
        rounded = replace_readers(value, f"{value.name}/rounded")
        graph.insert_before(graph[0], _round_where_it_fits(value, to, rounded))


def _round_weights(graph: ir.Graph, nodes: Sequence[ir.Node], to: Format) -> None:
    """Let `nodes` read rounded constants; other readers of a constant keep it as it is."""
    rounded: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        for position, value in enumerate(node.inputs):
            if value is None or not is_float32(value) or not _has_short_form(node, position):
                continue
            if value not in rounded and (array := read_constant(value)) is not None:
                rounded[value] = add_initializer(graph, f"{value.name}/{to.name}", _round_array(array, to))
            if value in rounded:
                node.replace_input_with(position, rounded[value])
    drop_unused_initializers(graph)


def _round_where_it_fits(value: ir.Value, to: Format, target: ir.Value) -> list[ir.Node]:
    """Nodes that write `value`, rounded, to `target`: r = round(x), and x where r = 2r, that is where r is 0 or ±∞."""
    rounded = ir.Value(name=f"{target.name}/rounding", type=value.type, shape=value.shape)
    nodes = list(round_to(value, to.dtype, rounded))
    twice = ir.node("Add", [rounded, rounded], name=f"{target.name}/twice")
    lost = ir.node("Equal", [rounded, twice.outputs[0]], name=f"{target.name}/lost")
    select = ir.node("Where", [lost.outputs[0], value, rounded], name=f"{target.name}/select", outputs=[target])
    for node, dtype in ((twice, ir.DataType.FLOAT), (lost, ir.DataType.BOOL)):
        output = node.outputs[0]
        output.name, output.type, output.shape = node.name, ir.TensorType(dtype), value.shape
    return [*nodes, twice, lost, select]


def _round_array(array: NDArray[Any], to: Format) -> NDArray[np.float32]:
    """`array` rounded, except numbers that would become infinite or zero."""
    with np.errstate(over="ignore"):
        rounded = to.round_array(array).astype(np.float32)
    return np.where((rounded == 0) | np.isinf(rounded), array, rounded).astype(np.float32)


def _find_varying_values(graph: ir.Graph) -> set[ir.Value]:
    """The tensors that depend on the values of the graph's inputs, not on their shapes alone."""
    varying = set(graph.inputs)
    for node in graph:
        if node.op_type in SHAPE_OPERATORS and node.domain == "":
            continue
        captured = node.inputs if not node.attributes else (*node.inputs, *_captured_values(node))
        if any(value in varying for value in captured):
            varying.update(node.outputs)
    return varying


def _captured_values(node: ir.Node) -> list[ir.Value]:
    """The tensors that the node's branches read."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    inner = (node for graph in graphs for node in graph.all_nodes())
    return [value for node in inner for value in node.inputs if value is not None]


def _has_short_form(node: ir.Node, position: int) -> bool:
    """Whether the operator takes a float16 at this input: the scales of a Resize, for example, are always float32."""
    if node.op_type == "BatchNormalization" and position in (MEAN, VARIANCE):
        return False
    assert node.graph is not None
    opset = node.graph.opset_imports.get(node.domain, 0)
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return True
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    variable = schema.inputs[min(position, len(schema.inputs) - 1)].type_str
    types = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return "tensor(float16)" in types.get(variable, ())
