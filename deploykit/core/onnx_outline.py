"""Read the outline of an ONNX file without the package onnx: what must be known before a runtime loads it.

An ONNX file is one Protobuf message: a sequence of fields, each a tag (number · 8 + wire type) and a content: a varint,
four or eight bytes, or a length as a varint and that many bytes. A nested message is such bytes again. Only the needed
fields are decoded; weights are skipped, so that half a gigabyte of them costs nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

Bytes: TypeAlias = "bytes | mmap.mmap"

GRAPH: Final = 7
"""Field number in ModelProto."""
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13
"""Field numbers in GraphProto."""
READS, OPERATOR = 1, 4
"""Field numbers in NodeProto: names of its inputs, in order, and its operator type."""
DATA_TYPE, TENSOR_NAME = 2, 8
"""Field numbers in TensorProto."""
VALUE_NAME, VALUE_TYPE = 1, 2
"""Field numbers in ValueInfoProto; field 1 of the type is the tensor type, whose field 1 is the element type."""

FLOAT16: Final = 10
"""Value of TensorProto.DataType."""


class GraphOutline(NamedTuple):
    """Properties of a graph that decide how it is loaded."""

    outputs: int
    """Number of outputs; 0 if the file has no graph."""
    half_scales: bool
    """Whether a QuantizeLinear has an FP16 scale."""


def read_outline(path: Path) -> GraphOutline:
    """Read the outline of the graph in a file. ValueError if it is not a complete Protobuf message; OSError like
    `open`.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        outputs = 0
        halves: set[bytes] = set()
        scales: set[bytes] = set()
        for graph in (field for field in _iterate_fields(content, 0, len(content)) if field.number == GRAPH):
            for part in _iterate_fields(content, graph.start, graph.end):
                if part.number == NODE:
                    scales.update(_scale_names(content, part))
                elif part.number == INITIALIZER:
                    halves.update(_half_tensor_names(content, part))
                elif part.number in (INPUT, VALUE_INFO):
                    halves.update(_half_value_names(content, part))
                elif part.number == OUTPUT:
                    outputs += 1
        return GraphOutline(outputs, bool(halves & scales))


class _Field(NamedTuple):
    number: int
    start: int
    end: int
    """Byte range of the content: `start` to `end`."""
    value: int
    """Value of a varint; 0 for other wire types."""


def _iterate_fields(content: Bytes, start: int, end: int) -> Iterator[_Field]:
    while start < end:
        tag, start = _decode_varint(content, start, end)
        number, wire = divmod(tag, 8)
        value, after = 0, start
        match wire:
            case 0:
                value, after = _decode_varint(content, start, end)
            case 1:
                after = start + 8
            case 2:
                length, start = _decode_varint(content, start, end)
                after = start + length
            case 5:
                after = start + 4
            case _:
                raise ValueError(f"no field of a Protobuf message begins at byte {start}")
        if number == 0 or after > end:
            raise ValueError(f"the field of a Protobuf message at byte {start} is incomplete")
        yield _Field(number, start, after, value)
        start = after


def _decode_varint(content: Bytes, start: int, end: int) -> tuple[int, int]:
    """Decode the integer at `start`, seven bits per byte, lowest first. Returns it and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if start >= end:
            break
        byte = content[start]
        number |= (byte & 0x7F) << shift
        start += 1
        if byte < 0x80:
            return number, start
    raise ValueError(f"the integer of a Protobuf message that ends before byte {start} is incomplete")


def _scale_names(content: Bytes, node: _Field) -> Iterator[bytes]:
    """The name of the scale if the node is a QuantizeLinear."""
    parts = list(_iterate_fields(content, node.start, node.end))
    reads = [content[part.start : part.end] for part in parts if part.number == READS]
    operators = [content[part.start : part.end] for part in parts if part.number == OPERATOR]
    if operators == [b"QuantizeLinear"] and len(reads) > 1:
        yield reads[1]


def _half_tensor_names(content: Bytes, tensor: _Field) -> Iterator[bytes]:
    """The name of the initializer if it is FP16."""
    parts = list(_iterate_fields(content, tensor.start, tensor.end))
    if any(part.number == DATA_TYPE and part.value == FLOAT16 for part in parts):
        yield from (content[part.start : part.end] for part in parts if part.number == TENSOR_NAME)


def _half_value_names(content: Bytes, value: _Field) -> Iterator[bytes]:
    """The name of the value if it is declared as FP16."""
    parts = list(_iterate_fields(content, value.start, value.end))
    types = (_iterate_fields(content, part.start, part.end) for part in parts if part.number == VALUE_TYPE)
    tensors = (_iterate_fields(content, part.start, part.end) for kind in types for part in kind if part.number == 1)
    if any(part.number == 1 and part.value == FLOAT16 for tensor in tensors for part in tensor):
        yield from (content[part.start : part.end] for part in parts if part.number == VALUE_NAME)
