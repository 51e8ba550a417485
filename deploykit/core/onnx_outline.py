"""What a runtime must know of an ONNX file before it loads it, read without the package onnx.

An ONNX file is one Protobuf message: fields, each a tag (number · 8 + wire type) and a content, which is a varint, four
or eight bytes, or a length as a varint and so many bytes. A message within is such bytes again. Only what is asked for
is looked at: weights are stepped over, so that half a gigabyte of them costs nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

Bytes: TypeAlias = "bytes | mmap.mmap"

GRAPH: Final = 7
"""Of ModelProto."""
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13
"""Of GraphProto."""
READS, OPERATOR = 1, 4
"""Of NodeProto: names of what it reads, in order, and the word for what it does."""
DATA_TYPE, TENSOR_NAME = 2, 8
"""Of TensorProto."""
VALUE_NAME, VALUE_TYPE = 1, 2
"""Of ValueInfoProto; the type holds a tensor's type as field 1, and that the elements' as field 1."""

FLOAT16: Final = 10
"""Of TensorProto.DataType."""


class Outline(NamedTuple):
    """What was asked of a graph."""

    outputs: int
    """How many it has; none where the file holds no graph."""
    half_scales: bool
    """Whether a QuantizeLinear has a scale in FP16."""


def outline(path: Path) -> Outline:
    """Of the graph in a file. ValueError where that is no Protobuf message or a part of one; OSError as `open` does."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        outputs = 0
        halves: set[bytes] = set()
        scales: set[bytes] = set()
        for graph in (field for field in _fields(content, 0, len(content)) if field.number == GRAPH):
            for part in _fields(content, graph.start, graph.end):
                if part.number == NODE:
                    scales.update(_scale(content, part))
                elif part.number == INITIALIZER:
                    halves.update(_half_tensor(content, part))
                elif part.number in (INPUT, VALUE_INFO):
                    halves.update(_half_value(content, part))
                elif part.number == OUTPUT:
                    outputs += 1
        return Outline(outputs, bool(halves & scales))


class _Field(NamedTuple):
    number: int
    start: int
    end: int
    """Of its content."""
    value: int
    """Of a varint; 0 for anything else."""


def _fields(content: Bytes, start: int, end: int) -> Iterator[_Field]:
    while start < end:
        tag, start = _varint(content, start, end)
        number, wire = divmod(tag, 8)
        value, after = 0, start
        match wire:
            case 0:
                value, after = _varint(content, start, end)
            case 1:
                after = start + 8
            case 2:
                length, start = _varint(content, start, end)
                after = start + length
            case 5:
                after = start + 4
            case _:
                raise ValueError(f"byte {start} begins no field of a Protobuf message")
        if number == 0 or after > end:
            raise ValueError(f"byte {start} is in no whole field of a Protobuf message")
        yield _Field(number, start, after, value)
        start = after


def _varint(content: Bytes, start: int, end: int) -> tuple[int, int]:
    """The number that begins at `start`, seven bits per byte, the lowest first; and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if start >= end:
            break
        byte = content[start]
        number |= (byte & 0x7F) << shift
        start += 1
        if byte < 0x80:
            return number, start
    raise ValueError(f"byte {start} is in no whole number of a Protobuf message")


def _scale(content: Bytes, node: _Field) -> Iterator[bytes]:
    """The name of a QuantizeLinear's scale; none of another node."""
    parts = list(_fields(content, node.start, node.end))
    reads = [content[part.start : part.end] for part in parts if part.number == READS]
    operators = [content[part.start : part.end] for part in parts if part.number == OPERATOR]
    if operators == [b"QuantizeLinear"] and len(reads) > 1:
        yield reads[1]


def _half_tensor(content: Bytes, tensor: _Field) -> Iterator[bytes]:
    """The name of an initializer in FP16; none of another."""
    parts = list(_fields(content, tensor.start, tensor.end))
    if any(part.number == DATA_TYPE and part.value == FLOAT16 for part in parts):
        yield from (content[part.start : part.end] for part in parts if part.number == TENSOR_NAME)


def _half_value(content: Bytes, value: _Field) -> Iterator[bytes]:
    """The name of a tensor that is declared as FP16; none of another."""
    parts = list(_fields(content, value.start, value.end))
    types = (_fields(content, part.start, part.end) for part in parts if part.number == VALUE_TYPE)
    tensors = (_fields(content, part.start, part.end) for each in types for part in each if part.number == 1)
    if any(part.number == 1 and part.value == FLOAT16 for each in tensors for part in each):
        yield from (content[part.start : part.end] for part in parts if part.number == VALUE_NAME)
