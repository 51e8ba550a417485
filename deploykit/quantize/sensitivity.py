"""Which layer loses most when it alone is quantized: the order in which an accuracy budget takes them out again."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir

from deploykit.core.values import Calibrated, Sensitivity
from deploykit.quantize import constants, qdq
from deploykit.quantize.int8 import thresholds
from deploykit.quantize.placement import is_layer, place

WORST = sys.float_info.max
"""In the place of infinity and NaN, which JSON cannot write."""

GRAPH_FILE = "alone.onnx"
SHARED_FILE = "whole.onnx"
WEIGHTS_FILE = "weights.data"


def rank(
    source: Path,
    calibrated: Calibrated,
    folder: Path,
    error: Callable[[Path], float],
    advance: Callable[[], None],
) -> tuple[Sensitivity, ...]:
    """Every layer of the graph at `source` with the error that quantizing it alone adds, the largest first.

    `error` is asked about one graph per layer, written into `folder`, where they take each other's place; equal errors
    keep the graph's order. An error that is no number is the worst: the layer's answers are none either.
    """
    found = []
    for layer, graph in alone(source, calibrated, folder):
        seen = error(graph)
        found.append(Sensitivity(layer, WORST if math.isnan(seen) else min(seen, WORST)))
        advance()
    return tuple(sorted(found, key=lambda each: -each.error))


def count(source: Path) -> int:
    """How many graphs `rank` will ask about."""
    return sum(1 for node in ir.load(source).graph if is_layer(node))


def alone(source: Path, calibrated: Calibrated, folder: Path) -> Iterator[tuple[str, Path]]:
    """The graph once per layer, with that layer quantized and no other."""
    whole = ir.load(source)
    constants.lift(whole.graph)
    names = [node.name or "" for node in whole.graph]
    layers = [node.name or "" for node in whole.graph if is_layer(node)]
    ir.save(whole, folder / SHARED_FILE, external_data=WEIGHTS_FILE)  # weights are written once, and read from there
    for layer in layers:
        model = ir.load(folder / SHARED_FILE)
        placement = place(model, frozenset(names) - {layer})
        qdq.insert(model, placement, thresholds(calibrated), half_scales=False)
        ir.save(model, folder / GRAPH_FILE)
        yield layer, folder / GRAPH_FILE
