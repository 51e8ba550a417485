"""Write and check ONNX files without copying their weights.

An ONNX file is one Protobuf message. Python's Protobuf copies every weight into the message and then the message into
bytes, which for VGG's half gigabyte takes longer than tracing the network. Here only the graph without its weights
passes through Protobuf; each weight is then appended as an encoded field. In Protobuf's encoding

    ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.raw_data = 9

are length-delimited fields: a tag (number · 8 + 2), a length as a varint, the content. Fields may come in any order.

A message of 2 GiB or more cannot be read back, so the weights of a larger graph go to a second file beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from deploykit.core.errors import InternalError
from deploykit.core.files import link_or_copy

LARGEST_SINGLE_FILE = 2**31 - 2**20
"""Protobuf's limit of 2 GiB, less a mebibyte for the graph itself. Larger graphs use external data."""

SMALL = 1024
"""Constants of at most this many bytes may be shapes or axes, which shape inference reads."""

REMEDY = "This is a bug in deploykit: please report it with the command that you ran."


def save_model(model: ir.Model, path: Path) -> tuple[str, ...]:
    """Write the graph and its weights to one file or, where that would exceed Protobuf's 2 GiB, the weights to
    `external_data_path(path)`. Returns the names of the files written, the graph first.
    """
    tensors = (value.const_value for value in model.graph.initializers.values())
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) >= LARGEST_SINGLE_FILE:
        data = external_data_path(path)
        ir.save(model, path, external_data=data.name)
        return (path.name, data.name) if data.is_file() else (path.name,)
    _write_single_file(model, path)
    return (path.name,)


def external_data_path(graph: Path) -> Path:
    """The file beside a graph that holds its weights where they do not fit into the graph's own file."""
    return graph.with_name(f"{graph.name}.data")


def place_graph(source: Path, target: Path) -> None:
    """Make the ONNX file `source`, with its external data, available as `target` in another folder.

    The graph is linked, or copied where that is not possible. External data is always copied: onnx and onnx-ir refuse
    to read external data that has several hard links. Both folders must use the same name for the graph, because the
    graph refers to its external data by name.
    """
    link_or_copy(source, target)
    data = external_data_path(source)
    if data.is_file():
        shutil.copyfile(data, external_data_path(target))


def remove_graph(path: Path) -> None:
    """Remove an ONNX file and its external data."""
    for file in (path, external_data_path(path)):
        file.unlink(missing_ok=True)


def _write_single_file(model: ir.Model, path: Path) -> None:
    weights = [_encode_initializer(value) for value in model.graph.initializers.values()]
    proto = _without_weights(model)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    lengths = [len(header) + len(data) for header, data in weights]
    size = len(graph) + sum(len(_encode_tag(5, length)) + length for length in lengths)
    with path.open("wb") as file:
        file.write(proto.SerializeToString())
        file.write(_encode_tag(7, size))
        file.write(graph)
        for (header, data), length in zip(weights, lengths, strict=True):
            file.write(_encode_tag(5, length))
            file.write(header)
            file.write(data)


def check_model(model: ir.Model) -> None:
    """Run onnx's checker with full shape inference. InternalError if it refuses the graph.

    Large weights are passed as graph inputs, because the checker needs only their types and shapes and would copy their
    content.
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
    initializers = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        return ir.to_proto(model)
    finally:
        model.graph.initializers.update(initializers)


def _encode_initializer(value: ir.Value) -> tuple[bytes, bytes]:
    """Encode a TensorProto in two parts: everything up to the tag and length of its data, and the data."""
    tensor = value.const_value
    assert tensor is not None
    data = tensor.tobytes()
    header = onnx.TensorProto(dims=tensor.shape.numpy(), data_type=tensor.dtype.value, name=value.name)
    return header.SerializeToString() + _encode_tag(9, len(data)), data


def _encode_tag(number: int, length: int) -> bytes:
    """Encode tag and length of a length-delimited field."""
    return bytes((number * 8 + 2, *_encode_varint(length)))


def _encode_varint(number: int) -> Iterator[int]:
    """Encode an integer with seven bits per byte, lowest first; the eighth bit says that more bytes follow."""
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
