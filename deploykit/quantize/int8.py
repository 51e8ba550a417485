"""An INT8 graph: placed, corrected, given its Q/DQ pairs, and the rest typed as the recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.errors import InputError
from deploykit.core.files import record
from deploykit.core.values import Calibrated, Placement, Recipe, TypedGraph
from deploykit.quantize import cast, correction, qdq
from deploykit.quantize.placement import place

GRAPH_FILE: Final = "model.onnx"

HALF_SCALES_FROM: Final = 19
"""The opset whose QuantizeLinear takes float16."""


def placed(source: Path, excluded: tuple[str, ...] = ()) -> Placement:
    """Where the Q/DQ pairs of the graph at `source` go."""
    return place(ir.load(source), frozenset(excluded))


def quantize(source: Path, calibrated: Calibrated, recipe: Recipe, folder: Path) -> TypedGraph:
    """Write `source` quantized into `folder`. `calibrated` must know every tensor that `placed(source)` quantizes and,
    where the rest becomes FP16, the range of every float tensor.
    """
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file beside the source stays there
    half = recipe.rest == "fp16"
    if half and model.opset_imports[""] < HALF_SCALES_FROM:
        raise InputError(
            f"Opset {model.opset_imports['']} has no FP16 scales for Q/DQ.",
            f"Export with --opset {HALF_SCALES_FROM} or more, or with --int8 alone.",
        )
    placement = place(model, frozenset(recipe.excluded))
    if recipe.correct_bias:
        correction.correct(model, placement, calibrated.means, half)
    qdq.insert(model, placement, thresholds(calibrated), half)
    kept = cast.retype(model, calibrated.ranges.tensors, "fp16", recipe.io) if half else ()
    folder.mkdir(parents=True, exist_ok=True)
    onnx_io.check(model)
    onnx_io.save(model, folder / GRAPH_FILE)
    return TypedGraph(
        files=(record(folder, GRAPH_FILE),),
        precision="int8-fp16" if half else "int8",
        kept=kept,
        cast_nodes=sum(1 for node in model.graph if node.op_type == "Cast"),
        placement=placement,
        recipe=recipe,
    )


def thresholds(calibrated: Calibrated) -> dict[str, float]:
    """Where each quantized tensor is clipped."""
    seen = calibrated.ranges.tensors.items()
    return {name: tensor.threshold for name, tensor in seen if tensor.threshold is not None}
