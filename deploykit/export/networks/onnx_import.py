"""Imports an ONNX file of any producer: a graph that satisfies the export contract and keeps the file's interface.

    functions    inlined; initializers are removed from the inputs
    opset        converted by onnx's version converter
    shapes       the batch is `batch` or one number; all other sizes are known
    names        nodes keep the names of the file

The rewrites are checked like those of every other export: outputs are compared with those of the original file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.graph_edit import is_constant
from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.values import (
    BatchRange,
    ExportedGraph,
    ExportOptions,
    FileRange,
    FileRanges,
    InputSpec,
    WeightsRecord,
)
from deploykit.export import contract
from deploykit.export.networks.onnx_dequantize import dequantize_model
from deploykit.export.networks.onnx_outputs import FileOutput, convert_outputs
from deploykit.export.networks.onnx_repair import repair_model
from deploykit.export.networks.onnx_source import OnnxSource, inline_functions, read_model
from deploykit.export.opset import OPSETS
from deploykit.export.rewrite import rewrite_and_save
from deploykit.export.traced_graph import drop_copied_outputs

if TYPE_CHECKING:
    import onnx


def import_onnx(
    source: OnnxSource,
    inputs: tuple[InputSpec, ...],
    outputs: Sequence[FileOutput],
    options: ExportOptions,
    weights: WeightsRecord,
    folder: Path,
) -> ExportedGraph:
    """Save the file as an FP32 graph in `folder`.

    `inputs` have all sizes; `outputs` were measured on the original file. Raises InputError where the file cannot be
    imported.
    """
    if options.opset not in OPSETS:
        raise InputError(
            f"Opset {options.opset} is not supported.",
            f"Choose --opset {OPSETS.start} to {OPSETS.stop - 1}.",
        )
    proto = _inline_functions(read_model(source.path))
    ranges = dequantize_model(proto, str(source.path))
    repairs = repair_model(proto)
    convert_outputs(proto, outputs)
    _set_interface_shapes(proto, inputs, {output.name: output.shape for output in outputs}, options.batch)
    proto = _convert_opset(source, proto, options.opset)
    model = ir.from_proto(_infer_shapes(source, proto))
    _require_requested_batch(source, model, options.batch)
    copies = drop_copied_outputs(model, str(source.path))
    for node in model.graph:
        node.metadata_props[MODULE_KEY] = (node.name or "").strip("/")
    constant_bytes = contract.initializer_bytes(model) + _computed_constant_bytes(model)
    terms = contract.Contract(options.opset, options.batch, (), constant_bytes)
    readers = _find_readers(model, ranges)
    graph = rewrite_and_save(model, terms, weights, "file", None, folder)
    changes = (note for output in outputs for note in output.describe_changes())
    found = FileRanges(source.pairs, _name_ranges(readers)) if source.pairs else None
    return msgspec.structs.replace(graph, file_ranges=found, notes=(*repairs, *changes, *copies))


class _RangeReader(NamedTuple):
    """Who reads a tensor of known range: the rewrites rename tensors and keep nodes."""

    node: ir.Node
    position: int
    range: FileRange


def _find_readers(model: ir.Model, ranges: Mapping[str, FileRange]) -> list[_RangeReader]:
    inputs = ((node, position, value) for node in model.graph for position, value in enumerate(node.inputs))
    return [
        _RangeReader(node, position, ranges[value.name])
        for node, position, value in inputs
        if value is not None and value.name is not None and value.name in ranges
    ]


def _name_ranges(readers: Sequence[_RangeReader]) -> dict[str, FileRange]:
    """The ranges by the names that the tensors have after all rewrites; the widest, where several were one tensor."""
    named: dict[str, FileRange] = {}
    for node, position, found in readers:
        value = node.inputs[position] if node.graph is not None and position < len(node.inputs) else None
        if value is not None and value.name and not is_constant(value):
            before = named.get(value.name, found)
            named[value.name] = found if found.threshold > before.threshold else before
    return dict(sorted(named.items()))


def _inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inline the file's functions, and remove the initializers that old files list among the inputs."""
    inlined = inline_functions(proto)
    weights = {initializer.name for initializer in inlined.graph.initializer}
    inputs = [value for value in inlined.graph.input if value.name not in weights]
    del inlined.graph.input[:]
    inlined.graph.input.extend(inputs)
    inlined.ir_version = max(inlined.ir_version, 4)  # until 3, every initializer had to be an input
    return inlined


def _set_interface_shapes(
    proto: onnx.ModelProto, inputs: tuple[InputSpec, ...], outputs: Mapping[str, tuple[int, ...]], batch: BatchRange
) -> None:
    """Set the shapes of inputs and outputs, and drop the shapes that were inferred from the old ones."""
    sizes = {spec.name: spec.shape for spec in inputs} | dict(outputs)
    for value in (*proto.graph.input, *proto.graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        first = shape.dim.add()
        if batch.static:
            first.dim_value = batch.optimum
        else:
            first.dim_param = "batch"
        for size in sizes[value.name]:
            shape.dim.add().dim_value = size
    del proto.graph.value_info[:]


def _convert_opset(source: OnnxSource, proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    import onnx

    if source.opset == opset:
        return proto
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(proto, opset)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
        raise InputError(
            f"{source.path} cannot be converted from opset {source.opset} to {opset}: {reason}.",
            "Export it again from the training framework at a later opset, or choose another --opset.",
        ) from error
    if source.opset < RESIZE_WITH_MODES:
        _set_resize_modes(converted)
    return converted


RESIZE_WITH_MODES: Final = 11
"""The first opset in which Resize says how coordinates and neighbours are computed, with other defaults than before."""


def _set_resize_modes(proto: onnx.ModelProto) -> None:
    """Give every Resize that was a Resize of opset 10 or an Upsample the coordinates of those: x / scale, rounded down;
    the version converter leaves the defaults of opset 11.
    """
    from onnx import helper

    for node in proto.graph.node:
        if node.op_type == "Resize":
            modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            own = [attribute for attribute in node.attribute if attribute.name not in modes]
            del node.attribute[:]
            node.attribute.extend([*own, *(helper.make_attribute(name, value) for name, value in modes.items())])


def _infer_shapes(source: OnnxSource, proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    try:
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise InputError(
            f"{source.path} cannot be run at these sizes: {reason}.",
            "Its batch size may be fixed in the graph: give --batch with that number.",
        ) from error
    return inferred


def _require_requested_batch(source: OnnxSource, model: ir.Model, batch: BatchRange) -> None:
    """Raise InputError where an output has another batch size than the inputs: a node has one hard-coded."""
    expected = batch.optimum if batch.static else "batch"
    for output in model.graph.outputs:
        first = None if output.shape is None else output.shape[0]
        actual = first if isinstance(first, int) else str(first.value) if first is not None else None
        if actual != expected:
            raise InputError(
                f"{source.path} has a hard-coded batch size of {actual}: its output {output.name!r} has it.",
                "Give --batch with that number, or export the file again with a dynamic batch.",
            )


def _computed_constant_bytes(model: ir.Model) -> int:
    """Return the bytes of the constants that nodes hold or compute, and that become initializers."""
    total = 0
    for node in [node for node in model.graph if node.op_type in ("Constant", "ConstantOfShape")]:
        shape, kind = node.outputs[0].shape, node.outputs[0].dtype
        if shape is not None and kind is not None and all(isinstance(size, int) for size in shape):
            elements = 1
            for size in shape:
                elements *= int(size) if isinstance(size, int) else 1
            total += int(elements * kind.itemsize)
    return total
