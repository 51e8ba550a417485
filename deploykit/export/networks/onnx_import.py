"""Somebody else's ONNX file becomes a graph that keeps our contract, with the interface that it came with.

    inlined      functions are written out, initializers are no inputs
    opset        raised by onnx's own converter
    shapes       the batch is `batch` or one number; all other sizes are known
    names        nodes are called after those of the file, so that a report speaks the user's language

What the rewrites then do is checked like every other export: by the answers, beside those of the file as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ExportedGraph, ExportOptions, InputSpec, WeightsRecord
from deploykit.export import contract
from deploykit.export.networks.onnx_source import Source, read
from deploykit.export.opset import OPSETS
from deploykit.export.passes.names import MODULE
from deploykit.export.rewrite import finish

if TYPE_CHECKING:
    import onnx


def import_onnx(
    source: Source,
    inputs: tuple[InputSpec, ...],
    outputs: Mapping[str, tuple[int, ...]],
    options: ExportOptions,
    weights: WeightsRecord,
    folder: Path,
) -> ExportedGraph:
    """Write the file as an FP32 graph into `folder`. `inputs` have every size; `outputs` are shapes of the outputs of
    one sample, as the file really gives them. InputError where the file cannot be taken in, with the reason.
    """
    if options.opset not in OPSETS:
        raise InputError(
            f"Opset {options.opset} is outside what deploykit writes.",
            f"Choose --opset {OPSETS.start} to {OPSETS.stop - 1}.",
        )
    proto = _inlined(read(source.path))
    _free(proto, inputs, outputs, options.batch)
    proto = _at_opset(source, proto, options.opset)
    model = ir.from_proto(_with_shapes(source, proto))
    _refuse_baked(source, model, options.batch)
    for node in model.graph:
        node.metadata_props[MODULE] = (node.name or "").strip("/")
    held = contract.initializer_bytes(model) + _filled(model)
    promise = contract.Promise(options.opset, options.batch, (), held)
    return finish(model, promise, weights, "file", None, folder)


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without functions of its own, and without the notes that old files keep of every weight among the inputs."""
    import onnx
    import onnx.inliner

    whole: onnx.ModelProto = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    weights = {each.name for each in whole.graph.initializer}
    inputs = [value for value in whole.graph.input if value.name not in weights]
    del whole.graph.input[:]
    whole.graph.input.extend(inputs)
    whole.ir_version = max(whole.ir_version, 4)  # before it, every initializer had to be an input
    return whole


def _free(
    proto: onnx.ModelProto, inputs: tuple[InputSpec, ...], outputs: Mapping[str, tuple[int, ...]], batch: BatchRange
) -> None:
    """Give inputs and outputs the sizes that they are to have, and forget what was inferred from others."""
    sizes = {each.name: each.shape for each in inputs} | dict(outputs)
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


def _at_opset(source: Source, proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    import onnx

    if source.opset == opset:
        return proto
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(proto, opset)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
        raise InputError(
            f"{source.path} cannot be taken from opset {source.opset} to {opset}: {reason}.",
            "Export it anew at a later opset from where it was trained, or choose another --opset.",
        ) from error
    return converted


def _with_shapes(source: Source, proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    try:
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise InputError(
            f"{source.path} does not take these sizes: {reason}.",
            "It may have a batch size baked in: give --batch with that one number.",
        ) from error
    return inferred


def _refuse_baked(source: Source, model: ir.Model, batch: BatchRange) -> None:
    """InputError where an output keeps another batch than its inputs have: some node inside has one of its own."""
    expected = batch.optimum if batch.static else "batch"
    for output in model.graph.outputs:
        first = None if output.shape is None else output.shape[0]
        found = first if isinstance(first, int) else str(first.value) if first is not None else None
        if found != expected:
            raise InputError(
                f"{source.path} has a batch of {found} baked in: it shows in its output {output.name!r}.",
                "Give --batch with that one number, or export the file anew with a free batch.",
            )


def _filled(model: ir.Model) -> int:
    """Bytes of the constants that the graph computes for itself, and which become initializers."""
    made = [node for node in model.graph if node.op_type in ("Constant", "ConstantOfShape")]
    total = 0
    for node in made:
        shape, kind = node.outputs[0].shape, node.outputs[0].dtype
        if shape is not None and kind is not None and all(isinstance(size, int) for size in shape):
            elements = 1
            for size in shape:
                elements *= int(size) if isinstance(size, int) else 1
            total += int(elements * kind.itemsize)
    return total
