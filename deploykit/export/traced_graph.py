"""Checks of a graph as an exporter wrote it, before it is rewritten: what is wrong here is the network's own doing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.core.values import BatchRange
from deploykit.export.passes.names import module_path

if TYPE_CHECKING:
    from deploykit.export.trace import TraceResult

RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators whose output is random."""

QUANTIZED: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators of networks that were trained or converted for quantization."""

REDUCED: Final = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def settle_output_shapes(traced: TraceResult, rows: Sequence[tuple[int, ...]], model: str, batch: BatchRange) -> None:
    """Set the sizes that the exporter left open to those of eager PyTorch, `rows`: one sample's part of each output.

    Raises InputError, with the name of the output, where the exporter fixed the batch, or where a size depends on the
    data.
    """
    expected_batch = batch.optimum if batch.static else "batch"
    for output, row in zip(traced.model.graph.outputs, rows, strict=True):
        written = () if output.shape is None else tuple(_size(size) for size in output.shape)
        if any(isinstance(size, str) and re.search(r"\bu\d+\b", size) for size in written):  # torch.export's free sizes
            raise InputError(
                f"The output {output.name!r} of {model} has a size that depends on the data: {format_shape(written)}.",
                "Return a fixed number of values for each sample, such as the best ones by torch.topk.",
            )
        if written and written[0] != expected_batch and isinstance(written[0], int):
            where = f" ({traced.decisions[0]})" if traced.decisions else ""
            raise InputError(
                f"{model} treats its batch as a fixed number{where}: the traced graph returns {written[0]} rows of "
                f"{output.name!r} for any batch.",
                "Give --batch with one number, such as --batch 1, or compute all samples in one call.",
            )
        output.shape = ir.Shape([expected_batch, *row])


def _size(size: int | ir.SymbolicDim) -> int | str:
    return size if isinstance(size, int) else str(size.value)


def refuse_operators(model: ir.Model, name: str) -> None:
    """Raise InputError for random numbers, quantization, and arithmetic in FP16 or BF16."""
    for node in model.graph:
        layer = module_path(node).removeprefix("network").strip(".")
        where = f"in layer {layer!r} ({node.op_type})" if layer else f"({node.op_type})"
        if node.op_type in RANDOM:
            raise InputError(
                f"{name} draws random numbers {where}: every call would give another answer.",
                "Switch noise and sampling off in eval mode.",
            )
        if node.op_type in QUANTIZED:
            raise InputError(
                f"{name} is already quantized: it has a {node.op_type}{f' in layer {layer!r}' if layer else ''}.",
                "Give the network without fake quantization; --int8 quantizes it.",
            )
        for output in node.outputs:
            if output.dtype in REDUCED:
                raise InputError(
                    f"{name} computes in {REDUCED[output.dtype]} {where}, and deploykit exports FP32 networks.",
                    "Remove the cast from its forward(); --fp16, --bf16 and --int8 choose the precision.",
                )


def drop_copied_outputs(model: ir.Model, name: str) -> tuple[str, ...]:
    """Remove outputs that only copy an input or another output, which no runtime needs; returns notes, as sentences."""
    notes, sources, kept = [], {id(value): value.name for value in model.graph.inputs}, []
    for output in model.graph.outputs:
        source = output
        while (node := source.producer()) is not None and node.op_type == "Identity" and node.inputs[0] is not None:
            source = node.inputs[0]
        if id(source) in sources:
            notes.append(f"The output {output.name!r} is a copy of {sources[id(source)]!r}, and is left out.")
        else:
            sources[id(source)] = output.name
            kept.append(output)
    if not kept:
        raise InputError(f"{name} returns its inputs only.", "Let its forward() return the tensors that it computes.")
    if notes:
        model.graph.outputs[:] = kept
    return tuple(notes)
