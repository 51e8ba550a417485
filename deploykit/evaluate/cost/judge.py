"""Measure an output in the terms of its kind, and judge it by the kind's default bounds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure, OutputCost, OutputKind
from deploykit.evaluate.cost import boxes, classes, detections, embeddings, maps, scalars, sequences, tensors
from deploykit.evaluate.cost.figures import Bound, make_figure

Array = NDArray[Any]

MEASURES: Final[Mapping[OutputKind, Callable[[Array, Array], list[CostFigure]]]] = {
    "classes": classes.measure_classes,
    "map": maps.measure_map,
    "detections": detections.measure_detections,
    "boxes": boxes.measure_boxes,
    "embedding": embeddings.measure_embedding,
    "scalar": scalars.measure_scalar,
    "sequence": sequences.measure_sequence,
    "tensor": tensors.measure_tensor,
}

BOUNDS: Final[Mapping[OutputKind, Mapping[str, Bound]]] = {
    "classes": classes.BOUNDS,
    "map": maps.BOUNDS,
    "detections": detections.BOUNDS,
    "boxes": boxes.BOUNDS,
    "embedding": embeddings.BOUNDS,
    "scalar": scalars.BOUNDS,
    "sequence": sequences.BOUNDS,
    "tensor": tensors.BOUNDS,
}

FINITE: Final = "finite samples"
ALL_FINITE: Final = Bound(1.0, "NaN and infinity are no imprecision")

ENOUGH: Final[Mapping[str, int]] = {
    "samples with a mask": 4,
    "boxes of the reference": 10,
    "samples with text": 4,
    classes.ONE_CLASS: 2,
}
"""Counts, by their figures, below which the other figures have such wide intervals that hardly anything can fail: with
4 samples, a candidate that finds nothing is within the interval of one that finds half."""

COEFFICIENTS: Final = ("worst cosine", "median cosine", "median cosine about the mean", "rank correlation")
"""Figures from −1 to 1."""


def measure_cost(name: str, kind: OutputKind, reference: Array, candidate: Array) -> OutputCost:
    """The figures of output `name`, N×… (sample axis first) of both; nothing is judged.

    A candidate with NaN or infinity gets the worst value of every figure, and the share of its finite samples first.
    ValueError for arrays of different shapes, without elements, or with NaN or infinity in the reference.
    """
    if reference.shape != candidate.shape or reference.size == 0:
        raise ValueError(f"the arrays must have the same shape, not {reference.shape} and {candidate.shape}")
    if not np.isfinite(reference).all():
        raise ValueError("the reference contains NaN or infinity")
    finite = np.isfinite(candidate).reshape(len(candidate), -1).all(axis=1)
    if finite.all():
        return OutputCost(name, kind, tuple(MEASURES[kind](reference, candidate)))
    worst = [_replace_by_worst(figure) for figure in MEASURES[kind](reference, reference)]
    return OutputCost(name, kind, (make_figure(FINITE, float(finite.mean()), "share"), *worst))


def judge_cost(cost: OutputCost) -> OutputCost:
    """The same figures, with the default bounds of the kind: "broken rather than imprecise".

    A figure fails where its whole interval is beyond the bound, or without an interval its value, so that a bound never
    fails a network because a few samples were drawn badly.
    """
    bounds = {**BOUNDS[cost.kind], FINITE: ALL_FINITE}
    figures = (_judge_figure(figure, bounds.get(figure.name)) for figure in cost.figures)
    return OutputCost(cost.name, cost.kind, tuple(figures))


def find_cost_caveats(cost: OutputCost) -> tuple[str, ...]:
    """What the cost of an output rests on too little for: a network that finds nothing in the samples passes as well as
    one that works.
    """
    return tuple(
        f"output {cost.name!r} ({cost.kind}): {figure.value:.0f} {figure.name}, which is too few to judge by: give "
        "samples like those in use with --data"
        for figure in cost.figures
        if figure.value < ENOUGH.get(figure.name, 0)
    )


def split_parts(kind: OutputKind, array: Array) -> dict[str, Array]:
    """The parts of an output that are judged apart, by name: boxes and scores of detections; the whole, without a name,
    of any other kind.
    """
    return detections.split_detections(array) if kind == "detections" else {"": array}


def _judge_figure(figure: CostFigure, bound: Bound | None) -> CostFigure:
    if bound is None:
        return figure
    if figure.lower_is_better:
        passed = (figure.value if figure.low is None else figure.low) <= bound.limit
    else:
        passed = (figure.value if figure.high is None else figure.high) >= bound.limit
    return msgspec.structs.replace(figure, bound=bound.limit, passed=passed, reason=bound.reason)


def _replace_by_worst(figure: CostFigure) -> CostFigure:
    """The figure at its worst value, which is certain and has no interval; counts are left as they are."""
    if figure.name in COEFFICIENTS:
        worst = -1.0
    elif figure.unit == "share":
        worst = 1.0 if figure.lower_is_better else 0.0
    elif figure.lower_is_better:
        worst = sys.float_info.max
    elif figure.unit == "dB":
        worst = -sys.float_info.max
    else:
        return figure
    return msgspec.structs.replace(figure, value=worst, low=None, high=None)
