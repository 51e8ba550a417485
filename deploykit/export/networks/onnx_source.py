"""Reads an ONNX file of any producer: its interface, and whether it can be imported."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.core.files import hash_file
from deploykit.core.values import BatchRange, DType, InputSpec
from deploykit.export.networks.onnx_branches import take_constant_branches
from deploykit.export.networks.onnx_dequantize import QDQ_DOMAINS, count_pairs, is_qdq
from deploykit.export.networks.onnx_repair import needs_repair
from deploykit.export.networks.readable_file import require_readable

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET: Final = 7
"""ONNX Runtime, which computes the reference, runs nothing older. Opsets from 11 on are supported."""

INPUT_TYPES: Final[dict[int, DType]] = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64"}
"""Supported types of inputs, by their number in onnx.TensorProto."""

CAST_TYPES: Final[dict[int, DType]] = {9: "int32", 11: "float32"}
"""Types of the graph's inputs where the file's are bool and float64 (`onnx_repair`)."""

QUANTIZED: Final = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
    | {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool", "QGemm"}
)
"""Operators on 8-bit codes; those of Q/DQ pairs are taken (`onnx_dequantize`)."""
RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


class OnnxSource(NamedTuple):
    """Interface and provenance of an ONNX file."""

    path: Path
    inputs: tuple[InputSpec, ...]
    """Shapes of one sample; an axis without a size is 0."""
    batch: int | None
    """The fixed batch size; None where the batch is dynamic."""
    outputs: tuple[str, ...]
    opset: int
    producer: str
    ends_in_softmax: bool
    is_score_vector: bool
    """Whether the only output is one floating-point vector per sample."""
    sha256: str
    """Digest of the file and its external data."""
    pairs: int = 0
    """Number of Q/DQ pairs."""
    repaired: bool = False
    """Whether ONNX Runtime needs a repaired copy (`onnx_repair`)."""


def open_source(path: str) -> OnnxSource:
    """Read the file at `path`. Raises InputError where it cannot be imported."""
    return _read_source(path, _file_stamp(Path(path)))


@lru_cache(maxsize=8)
def _read_source(path: str, stamp: tuple[int, int]) -> OnnxSource:  # noqa: ARG001 - a changed file is read again
    file = Path(path)
    model = read_model(file, weights=False)
    opset, digest = _read_opset(file, model), _source_digest(file, model)
    model = inline_functions(model)
    graph = model.graph
    _refuse_operators(file, model)
    _refuse_values(file, graph)
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs or not graph.output:
        raise InputError(f"{path} has no {'input' if not inputs else 'output'}.", "Give the ONNX file of a network.")
    batches = {_axis_size(value, 0) for value in inputs}
    if len(batches - {0}) > 1:
        listed = ", ".join(f"{value.name}: {_axis_size(value, 0)}" for value in inputs)
        raise InputError(
            f"{path}: inputs have different batch sizes ({listed}).", "The first axis of every input must be the batch."
        )
    producers = {name: node for node in graph.node for name in node.output}
    last = producers.get(graph.output[0].name)
    while last is not None and is_qdq(last):
        last = producers.get(last.input[0])
    first = graph.output[0].type.tensor_type
    sizes = _declared_shape(graph.output[0])
    single_output = len({value.name for value in graph.output}) == 1
    return OnnxSource(
        path=file,
        inputs=tuple(InputSpec(value.name, _declared_shape(value)[1:], _input_dtype(file, value)) for value in inputs),
        batch=max(batches) or None,
        outputs=tuple(dict.fromkeys(value.name for value in graph.output)),
        opset=opset,
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part) or "an unnamed tool",
        ends_in_softmax=single_output and last is not None and last.op_type == "Softmax",
        is_score_vector=single_output
        and first.elem_type == 1
        and len(sizes) >= 2
        and all(size == 1 for size in sizes[2:]),
        sha256=digest,
        pairs=(pairs := count_pairs(graph)),
        repaired=needs_repair(graph) or pairs > 0,
    )


def read_model(path: Path, weights: bool = True) -> onnx.ModelProto:
    """Load the file as Protobuf, with or without its external data. Raises InputError where it is not ONNX."""
    import onnx
    from google.protobuf.message import DecodeError

    _file_stamp(path)
    try:
        model = onnx.load(path, load_external_data=weights)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"{path} cannot be read as ONNX: {first_line(error)}.",
            "Give a complete .onnx file, with its external data.",
        ) from error
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX graph: it has no node.", "Give an .onnx file.")
    return model


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the calls of the file's own functions by their nodes, and each If by the branch that it always takes."""
    import onnx.inliner

    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model) if model.functions else model
    take_constant_branches(inlined.graph)
    return inlined


def default_batch(source: OnnxSource) -> BatchRange:
    """Return the default of `--batch`: the file's fixed size, or 1 to 32."""
    return BatchRange() if source.batch is None else BatchRange(source.batch, source.batch, source.batch)


def _file_stamp(path: Path) -> tuple[int, int]:
    require_readable(str(path))
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _read_opset(path: Path, model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or versions[0] < OLDEST_OPSET:
        raise InputError(
            f"{path} has opset {versions[0] if versions else 'none'}; deploykit supports 11 and later.",
            "Export it again from the training framework, at a later opset.",
        )
    return int(versions[0])


def _refuse_operators(path: Path, model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        where = f"{path}: {node.name or node.output[0]} is a {node.op_type}"
        if node.op_type in QUANTIZED and node.domain in QDQ_DOMAINS:
            raise InputError(
                f"{where}: it computes on 8-bit codes.",
                "Write the file with Q/DQ pairs (onnxruntime: quantize_static with QuantFormat.QDQ), or give the FP32 "
                "graph: deploykit quantizes it.",
            )
        if is_qdq(node):
            continue
        if node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"{where} of the domain {node.domain}, not a standard ONNX operator.",
                "Export it to standard operators: other runtimes do not support this one.",
            )
        if node.op_type in RANDOM:
            raise InputError(f"{where}: its output is random.", "Export it in inference mode.")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise InputError(
                f"{where} with a subgraph, whose tensors cannot be calibrated.",
                "Export it without control flow; onnxsim removes branches that do not depend on the input.",
            )


def _refuse_values(path: Path, graph: onnx.GraphProto) -> None:
    """Refuse what is not a dense tensor, and weights in FP16 or BF16."""
    from onnx import TensorProto

    for value in graph.output:
        if not value.type.HasField("tensor_type"):
            kind = (value.type.WhichOneof("value") or "value of an unknown type").removesuffix("_type")
            raise InputError(
                f"{path}: the output {value.name!r} is a {kind}, not a tensor.",
                "Export it with tensors as outputs: a sequence as one tensor, by ConcatFromSequence or torch.stack.",
            )
    if graph.sparse_initializer:
        raise InputError(
            f"{path}: the weight {graph.sparse_initializer[0].values.name!r} is stored as a sparse tensor.",
            "Export it with dense weights.",
        )
    constants = (
        (node.output[0], attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.HasField("t")
    )
    for name, tensor in (*((one.name, one) for one in graph.initializer), *constants):
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            kind = TensorProto.DataType.Name(tensor.data_type)
            raise InputError(
                f"{path}: the weight {name!r} is {kind}, and deploykit converts FP32 networks.",
                "Give the FP32 graph that it was made from, and choose the precision with --fp16, --bf16 or --int8.",
            )


def _input_dtype(path: Path, value: onnx.ValueInfoProto) -> DType:
    import onnx

    kind = value.type.tensor_type.elem_type
    if value.type.HasField("tensor_type") and kind in CAST_TYPES:
        return CAST_TYPES[kind]
    if not value.type.HasField("tensor_type") or kind not in INPUT_TYPES:
        name = onnx.TensorProto.DataType.Name(kind).lower() if value.type.HasField("tensor_type") else "not a tensor"
        hint = "Give the FP32 graph; deploykit converts it." if kind in (10, 16) else "Cast it inside the graph."
        raise InputError(
            f"{path}: the input {value.name!r} is {name}; supported are {', '.join(INPUT_TYPES.values())}.", hint
        )
    return INPUT_TYPES[kind]


def _declared_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(max(0, dim.dim_value) for dim in value.type.tensor_type.shape.dim)  # some tools write -1 for dynamic


def _axis_size(value: onnx.ValueInfoProto, axis: int) -> int:
    shape = _declared_shape(value)
    if not shape:
        raise InputError(f"the input {value.name!r} has no declared axes.", "Its first axis must be the batch.")
    return shape[axis]


def _source_digest(path: Path, model: onnx.ModelProto) -> str:
    digest = hashlib.sha256(path.read_bytes())
    entries = [entry for initializer in model.graph.initializer for entry in initializer.external_data]
    for name in sorted({entry.value for entry in entries if entry.key == "location"}):
        data = path.parent / name
        if not data.is_file():
            raise InputError(f"{path} has external data in {name}, which is missing.", f"Copy {name} to {path.parent}.")
        digest.update(hash_file(data).encode())
    return digest.hexdigest()
