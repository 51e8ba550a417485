"""ONNX graphs as files: written without holding the weights three times, checked without copying them.

An ONNX file is one Protobuf message. Python's Protobuf copies every weight into the message and then copies the message
into bytes, which for VGG's half gigabyte takes longer than tracing it. Here only the graph around the weights goes
through Protobuf; each weight is written behind it as the field that it is. In Protobuf's encoding

    ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.raw_data = 9

are fields of bytes: a tag (number · 8 + 2), a length as a varint, the content. Fields may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from deploykit.core.errors import InternalError

SMALL = 1024
"""Constants up to so many bytes may be shapes and axes, which shape inference reads."""

REMEDY = "This is a fault of deploykit: please report it with the command that you ran."


def save(model: ir.Model, path: Path) -> None:
    """Write the graph and its weights as one file."""
    weights = [_initializer(value) for value in model.graph.initializers.values()]
    proto = _without_weights(model)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    sizes = [len(header) + len(data) for header, data in weights]
    size = len(graph) + sum(len(_field(5, each)) + each for each in sizes)
    with path.open("wb") as file:
        file.write(proto.SerializeToString())
        file.write(_field(7, size))
        file.write(graph)
        for (header, data), each in zip(weights, sizes, strict=True):
            file.write(_field(5, each))
            file.write(header)
            file.write(data)


def check(model: ir.Model) -> None:
    """Onnx's own checker with full shape inference. InternalError where it refuses.

    Weights stand as inputs meanwhile: the checker looks at their types and shapes and would copy their content.
    """
    proto = _without_weights(model)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if tensor.nbytes > SMALL:
            info = onnx.helper.make_tensor_value_info(value.name or "", tensor.dtype.value, tensor.shape.numpy())
            proto.graph.input.append(info)
        else:
            proto.graph.initializer.append(ir.serde.serialize_tensor(tensor))
            proto.graph.initializer[-1].name = value.name or ""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InternalError(f"onnx.checker refuses the graph: {error}", REMEDY) from error


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    held = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        return ir.to_proto(model)
    finally:
        model.graph.initializers.update(held)


def _initializer(value: ir.Value) -> tuple[bytes, bytes]:
    """A TensorProto in two parts: all but its data, ending in the tag and length of the data; and the data."""
    tensor = value.const_value
    assert tensor is not None
    data = tensor.tobytes()
    head = onnx.TensorProto(dims=tensor.shape.numpy(), data_type=tensor.dtype.value, name=value.name)
    return head.SerializeToString() + _field(9, len(data)), data


def _field(number: int, length: int) -> bytes:
    """Tag and length of a field of bytes."""
    return bytes((number * 8 + 2, *_varint(length)))


def _varint(number: int) -> Iterator[int]:
    """Seven bits per byte, the lowest first; the eighth says that more follow."""
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
