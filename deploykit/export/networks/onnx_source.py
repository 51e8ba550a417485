"""An ONNX file as somebody brought it: what it says of itself, and what keeps it from being taken in."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.core.errors import InputError
from deploykit.core.files import sha256
from deploykit.core.values import BatchRange, DType, InputSpec
from deploykit.export.networks.readable_file import require_readable

if TYPE_CHECKING:
    import onnx

OLDEST: Final = 7
"""ONNX Runtime, by which a file is judged, runs nothing older; what is promised begins at 11."""

TYPES: Final[dict[int, DType]] = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64"}
"""onnx.TensorProto's numbers of the types that inputs and outputs may have."""

QUANTIZED: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"})
BY_CHANCE: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


class Source(NamedTuple):
    """What a file says of itself."""

    path: Path
    inputs: tuple[InputSpec, ...]
    """Axes without a size are 0 here."""
    batch: int | None
    """The only batch size that it takes; None: any."""
    outputs: tuple[str, ...]
    opset: int
    producer: str
    ends_in_softmax: bool
    scores: bool
    """Whether its one output is a vector per sample, of floating point."""
    sha256: str
    """Of the file, and of those that hold weights for it."""


def open_source(path: str) -> Source:
    """The file at `path`. InputError where it is no graph that deploykit can take, with the reason."""
    return _opened(path, _stamp(Path(path)))


@lru_cache(maxsize=8)
def _opened(path: str, stamp: tuple[int, int]) -> Source:  # noqa: ARG001 - a file that changed is read anew
    file = Path(path)
    model = read(file, weights=False)
    graph = model.graph
    _refuse_operators(file, model)
    weights = {each.name for each in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs or not graph.output:
        raise InputError(f"{path} has no {'input' if not inputs else 'output'}.", "Give a network.")
    batches = {_size(value, 0) for value in inputs}
    if len(batches - {0}) > 1:
        said = ", ".join(f"{value.name}: {_size(value, 0)}" for value in inputs)
        raise InputError(f"{path}: inputs have different batch sizes ({said}).", "Their first axis must be the batch.")
    last = {name: node for node in graph.node for name in node.output}
    ends = last.get(graph.output[0].name)
    first = graph.output[0].type.tensor_type
    sizes = [dim.dim_value for dim in first.shape.dim]
    alone = len(graph.output) == 1
    return Source(
        path=file,
        inputs=tuple(InputSpec(value.name, _shape(value)[1:], _dtype(file, value)) for value in inputs),
        batch=max(batches) or None,
        outputs=tuple(value.name for value in graph.output),
        opset=_opset(file, model),
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part) or "an unnamed tool",
        ends_in_softmax=alone and ends is not None and ends.op_type == "Softmax",
        scores=alone and first.elem_type == 1 and len(sizes) >= 2 and all(size == 1 for size in sizes[2:]),
        sha256=_digest(file, model),
    )


def read(path: Path, weights: bool = True) -> onnx.ModelProto:
    """The file as Protobuf, checked; with the weights that lie in other files, or without."""
    import onnx
    from google.protobuf.message import DecodeError

    _stamp(path)
    try:
        model = onnx.load(path, load_external_data=weights)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{path} cannot be read as ONNX: {reason}.", "Give a whole .onnx file, with its data."
        ) from error
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX graph: it has no node.", "Give an .onnx file.")
    return model


def batch_sizes(source: Source) -> BatchRange:
    """What `--batch` is where the user does not say: the file's own, or 1 to 32."""
    return BatchRange() if source.batch is None else BatchRange(source.batch, source.batch, source.batch)


def _stamp(path: Path) -> tuple[int, int]:
    require_readable(str(path))
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _opset(path: Path, model: onnx.ModelProto) -> int:
    found = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if not found or found[0] < OLDEST:
        raise InputError(
            f"{path} is written at opset {found[0] if found else 'none'}, and deploykit takes 11 and later.",
            "Export it anew from where it was trained.",
        )
    return int(found[0])


def _refuse_operators(path: Path, model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        where = f"{path}: {node.name or node.output[0]} is a {node.op_type}"
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"{where} of {node.domain}, which is none of ONNX's own operators.",
                "Export it to standard operators: no other runtime knows this one.",
            )
        if node.op_type in QUANTIZED:
            raise InputError(f"{where}: the graph is quantized already.", "Bring the floating-point graph.")
        if node.op_type in BY_CHANCE:
            raise InputError(f"{where}: its answers are drawn by chance.", "Export it in inference mode.")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise InputError(
                f"{where} with a graph inside, whose values no calibration sees.",
                "Export it without control flow: onnxsim removes what does not depend on the input.",
            )


def _dtype(path: Path, value: onnx.ValueInfoProto) -> DType:
    import onnx

    kind = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or kind not in TYPES:
        name = onnx.TensorProto.DataType.Name(kind).lower() if value.type.HasField("tensor_type") else "no tensor"
        hint = "Bring the FP32 graph: deploykit types it." if kind in (10, 16) else "Cast it inside the graph."
        raise InputError(f"{path}: the input {value.name!r} is {name}; {', '.join(TYPES.values())} are taken.", hint)
    return TYPES[kind]


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _size(value: onnx.ValueInfoProto, axis: int) -> int:
    shape = _shape(value)
    if not shape:
        raise InputError(f"the input {value.name!r} has no axis, or none is declared.", "Its first one is the batch.")
    return shape[axis]


def _digest(path: Path, model: onnx.ModelProto) -> str:
    digest = hashlib.sha256(path.read_bytes())
    named = {entry.value for each in model.graph.initializer for entry in each.external_data if entry.key == "location"}
    for name in sorted(named):
        data = path.parent / name
        if not data.is_file():
            raise InputError(f"{path} keeps weights in {name}, which is not beside it.", "Copy both.")
        digest.update(sha256(data).encode())
    return digest.hexdigest()
