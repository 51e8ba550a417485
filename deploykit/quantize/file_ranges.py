"""INT8 thresholds from the ranges that an ONNX file holds as Q/DQ pairs, for the pairs that our rules place.

A tensor that the rules quantize and the file does not takes the range of the nearest tensor with the same values. Nodes
that read one without such a neighbour stay in floating point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import onnx_ir as ir

from deploykit.core.errors import InputError, InternalError
from deploykit.core.onnx_io import REMEDY
from deploykit.core.values import FileRange, Placement
from deploykit.quantize.placement import DENSE_FEATURE, DENSE_READER, place_qdq_pairs

BOUNDED_BY_INPUT: Final = frozenset(
    {"MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "Dropout"}
    | {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Concat"}
)
"""Operators whose outputs lie in the range of their inputs: of all of them, for a Concat."""

SAME_VALUES: Final = frozenset(
    {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Concat", "MaxPool"}
)
"""Operators whose inputs lie in the range of their output; of a MaxPool's, what the output never shows is clipped."""


class FileRangePlan(NamedTuple):
    """How the ranges of a file serve a placement by our rules."""

    ranges: dict[str, FileRange]
    """Of every tensor that `placement` quantizes."""
    inferred: dict[str, str]
    """Tensors without a pair in the file, and the one whose range they take."""
    excluded: tuple[str, ...]
    """Nodes that read a tensor without a range."""
    placement: Placement


def plan_file_ranges(source: Path, ranges: Mapping[str, FileRange]) -> FileRangePlan:
    """Place Q/DQ pairs in the graph at `source` where `ranges`, by tensor, or a neighbour of one gives a range.

    Raises InputError where no layer is left.
    """
    if not ranges:
        raise InputError(
            "The file's Q/DQ pairs are those of weights: it has no range for INT8.",
            "Calibrate the FP32 graph that it was made from: --int8 --calibration FOLDER.",
        )
    model = ir.load(source)
    values = {value.name: value for value in _list_values(model) if value.name}
    excluded: set[str] = set()
    while True:
        placement = place_qdq_pairs(model, frozenset(excluded))
        found = {edge.tensor: _find_range(values[edge.tensor], ranges) for edge in placement.edges}
        without = {tensor for tensor, origin in found.items() if origin is None}
        if not without:
            break
        before = len(excluded)
        excluded |= {edge.node for edge in placement.edges if edge.tensor in without and edge.rule != DENSE_READER}
        groups = {name for group in placement.shared if without & {*group} for name in group}
        excluded |= {edge.node for edge in placement.edges if edge.tensor in groups and edge.rule == DENSE_FEATURE}
        if len(excluded) == before:
            raise InternalError(f"The placement keeps a pair on {min(without)}, which has no range.", REMEDY)
    origins = {tensor: origin for tensor, origin in found.items() if origin is not None}
    return FileRangePlan(
        ranges={tensor: ranges[origin] for tensor, origin in origins.items()},
        inferred={tensor: origin for tensor, origin in sorted(origins.items()) if tensor != origin},
        excluded=tuple(node.name for node in model.graph if node.name and node.name in excluded),
        placement=placement,
    )


def _find_range(value: ir.Value, ranges: Mapping[str, FileRange]) -> str | None:
    """The tensor whose range `value` takes: itself, else what it is computed from, else what is computed from it."""
    return _find_before(value, ranges) or _find_behind(value, ranges)


def _find_before(value: ir.Value, ranges: Mapping[str, FileRange]) -> str | None:
    if value.name in ranges:
        return value.name
    producer = value.producer()
    if producer is None or producer.op_type not in BOUNDED_BY_INPUT or producer.inputs[0] is None:
        return None
    data = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
    found = [None if each is None else _find_before(each, ranges) for each in data]
    names = [name for name in found if name is not None]
    return max(names, key=lambda name: ranges[name].threshold) if len(names) == len(found) else None


def _find_behind(value: ir.Value, ranges: Mapping[str, FileRange]) -> str | None:
    for reader, position in value.uses():
        if reader.op_type not in SAME_VALUES or (position and reader.op_type != "Concat"):
            continue
        output = reader.outputs[0]
        found = output.name if output.name in ranges else _find_behind(output, ranges)
        if found is not None:
            return found
    return None


def _list_values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs
