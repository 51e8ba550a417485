"""Layers ranked by the error of quantizing one alone: the order in which an accuracy budget excludes them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from deploykit.core.graph_edit import lift_constants
from deploykit.core.values import CalibrationResult, Sensitivity
from deploykit.quantize import qdq
from deploykit.quantize.int8 import clip_thresholds
from deploykit.quantize.placement import is_layer, place_qdq_pairs

WORST = sys.float_info.max
"""Replaces infinity and NaN, which JSON cannot hold."""

GRAPH_FILE = "isolated.onnx"
SHARED_FILE = "shared.onnx"
WEIGHTS_FILE = "weights.data"


def rank_by_sensitivity(
    source: Path,
    calibrated: CalibrationResult,
    folder: Path,
    error: Callable[[Path], float],
    advance: Callable[[], None],
) -> tuple[Sensitivity, ...]:
    """Every layer of the graph at `source` with the error that quantizing it alone adds, the largest first.

    `error` is called with one graph per layer; each overwrites the one before in `folder`. Equal errors keep the
    graph's order. NaN and infinity count as the largest error: the layer's output is not finite.
    """
    shared, target = folder / SHARED_FILE, folder / GRAPH_FILE
    sensitivities = []
    for layer in _write_shared_graph(source, shared):
        isolate_layer(shared, layer, calibrated, target)
        added = error(target)
        sensitivities.append(Sensitivity(layer, WORST if math.isnan(added) else min(added, WORST)))
        advance()
    return tuple(sorted(sensitivities, key=lambda sensitivity: -sensitivity.error))


def count_layers(source: Path) -> int:
    """Number of layers that `rank_by_sensitivity` evaluates."""
    return sum(1 for node in ir.load(source).graph if is_layer(node))


def isolate_layer(source: Path, layer: str, calibrated: CalibrationResult, target: Path) -> None:
    """Write the graph at `source` to `target` with `layer` quantized and no other; external data stays where it is."""
    model = ir.load(source)
    others = frozenset(node.name or "" for node in model.graph) - {layer}
    placement = place_qdq_pairs(model, others)
    qdq.insert_qdq_pairs(model, placement, clip_thresholds(calibrated), half_scales=False)
    ir.save(model, target)


def _write_shared_graph(source: Path, target: Path) -> list[str]:
    """Write the weights once, as external data that all graphs refer to; return the names of the layers."""
    model = ir.load(source)
    lift_constants(model.graph)
    ir.save(model, target, external_data=WEIGHTS_FILE)
    return [node.name or "" for node in model.graph if is_layer(node)]
