"""Class scores: does the candidate choose the same class?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost.figures import Bound, has_integers, make_figure, sum_to_one
from deploykit.evaluate.cost.intervals import wilson_interval
from deploykit.evaluate.parity import metrics

Array = NDArray[Any]

BOUNDS: Final = {
    "top-1 agreement": Bound(
        0.7,
        "an INT8 network that is worth shipping chooses the same class for 80 to 99 % of samples, one with a fault for "
        "less than 60 %; it fails only where the whole interval is below, so that no draw of few samples decides",
    )
}


ONE_CLASS: Final = "class chosen by the reference"
"""A figure that stands only where it is one for all samples: a candidate that always chooses it agrees everywhere."""


def measure_classes(reference: Array, candidate: Array) -> list[CostFigure]:
    """Top-1 agreement, KL divergence in nats and top-5 overlap of N×C (×1×1…) scores; agreement alone of N (×1) chosen
    classes. Scores that sum to 1 are probabilities, others are logits.
    """
    if has_integers(reference):
        r, c = (array.reshape(len(array), -1) for array in (reference, candidate))
        return [_measure_agreement((r == c).all(axis=1))]
    r, c = class_scores(reference), class_scores(candidate)
    divergence = metrics.kl_of_probabilities if sum_to_one(r, 1) else metrics.kl_of_logits
    figures = [
        _measure_agreement(r.argmax(axis=1) == c.argmax(axis=1)),
        make_figure("KL divergence", divergence(r, c), "nats", lower_is_better=True),
    ]
    if len(np.unique(r.argmax(axis=1))) == 1:
        figures.append(make_figure(ONE_CLASS, 1.0, ""))
    if r.shape[1] > 5:  # with 5 classes or fewer, all are among the best 5
        figures.append(make_figure("top-5 overlap", metrics.top5_overlap(r, c), "share"))
    return figures


def class_scores(array: Array) -> Array:
    """N×C of N×C×1×1…: argmax along axis 1 of four axes gives N×1×1, which then broadcasts against labels. ValueError
    for more than one score per class.
    """
    if array.ndim < 2 or array.size != array.shape[0] * array.shape[1]:
        raise ValueError(f"class scores must be N×C or N×C×1×1, not {array.shape}")
    return array.reshape(array.shape[:2])


def _measure_agreement(equal: NDArray[np.bool_]) -> CostFigure:
    share = float(equal.mean())
    return CostFigure("top-1 agreement", share, *wilson_interval(share, len(equal)), "share")
