"""An INT8 graph: placement, bias correction, insertion of Q/DQ pairs, and the cast of the rest as the recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.errors import InputError
from deploykit.core.files import record_file
from deploykit.core.values import CalibrationResult, Placement, PrecisionGraphRecord, Recipe
from deploykit.quantize import cast, correction, qdq
from deploykit.quantize.placement import list_dense_blocks, place_qdq_pairs

GRAPH_FILE: Final = "model.onnx"

HALF_SCALES_FROM: Final = 19
"""The first opset whose QuantizeLinear accepts float16."""


def plan_placement(source: Path, excluded: tuple[str, ...] = ()) -> Placement:
    """Decide where the Q/DQ pairs of the graph at `source` go."""
    return place_qdq_pairs(ir.load(source), frozenset(excluded))


def plan_dense_blocks(source: Path) -> tuple[tuple[str, ...], ...]:
    """The Concats of each dense block of the graph at `source`, in its order. Excluding them from INT8 leaves the
    features of the block in floating point.
    """
    model = ir.load(source)
    return list_dense_blocks(list(model.graph), place_qdq_pairs(model))


def write_quantized_graph(
    source: Path, calibrated: CalibrationResult, recipe: Recipe, folder: Path
) -> PrecisionGraphRecord:
    """Write the quantized graph of `source` into `folder`.

    `calibrated` must hold every tensor that `plan_placement(source)` quantizes and, where the rest becomes FP16, the
    range of every float tensor.
    """
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file next to the source stays there
    half = recipe.rest == "fp16"
    if half and model.opset_imports[""] < HALF_SCALES_FROM:
        raise InputError(
            f"Opset {model.opset_imports['']} does not support FP16 scales in Q/DQ.",
            f"Export with --opset {HALF_SCALES_FROM} or later, or with --int8 and without --fp16.",
        )
    placement = place_qdq_pairs(model, frozenset(recipe.excluded))
    if recipe.correct_bias:
        correction.correct_biases(model, placement, calibrated.means, half)
    qdq.insert_qdq_pairs(model, placement, clip_thresholds(calibrated), half)
    fp32_nodes = cast.cast_model(model, calibrated.ranges.tensors, "fp16", recipe.io) if half else ()
    folder.mkdir(parents=True, exist_ok=True)
    onnx_io.check_model(model)
    files = tuple(record_file(folder, name) for name in onnx_io.save_model(model, folder / GRAPH_FILE))
    return PrecisionGraphRecord(
        files=files,
        precision="int8-fp16" if half else "int8",
        fp32_nodes=fp32_nodes,
        cast_nodes=sum(1 for node in model.graph if node.op_type == "Cast"),
        placement=placement,
        recipe=recipe,
    )


def clip_thresholds(calibrated: CalibrationResult) -> dict[str, float]:
    """The magnitude at which each quantized tensor is clipped."""
    ranges = calibrated.ranges.tensors.items()
    return {name: tensor.threshold for name, tensor in ranges if tensor.threshold is not None}
