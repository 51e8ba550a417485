"""Maps: is every pixel in the same mask, or of the same class?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost.figures import Bound, has_integers, make_figure, make_share, sum_to_one

Array = NDArray[Any]

PROBABILITY_THRESHOLDS: Final = (0.3, 0.5, 0.7)
"""Of masks: what text detectors and matting networks cut at. The first is judged: it keeps the most."""

LOGIT_THRESHOLDS: Final = (0.0,)

SMALLEST_MASK: Final = 1e-3
"""Share of an image below which its mask is not compared: an outline moved by one pixel would halve its IoU."""

SMALLEST_CLASS: Final = 5e-3
"""Share of all pixels below which a class does not count in the mean over classes, for the same reason."""

_MASK_IOU = Bound(
    0.7,
    "a mask of the same objects whose outline moves by a pixel keeps an IoU of 0.8 to 0.95, INT8 text detectors that "
    "read the same words had 0.8; another image's mask shares less than half",
)
BOUNDS: Final = {
    "mask IoU at 0.3": _MASK_IOU,
    "mask IoU at 0": _MASK_IOU,
    "changed pixels": Bound(
        0.3, "rounding moves outlines, which are a few percent of an image; a third of it is another picture"
    ),
    "class IoU": Bound(
        0.5, "the mean over classes of an INT8 segmentation is 0.75 to 0.95 of its FP32's; half means lost classes"
    ),
}


def measure_map(reference: Array, candidate: Array) -> list[CostFigure]:
    """N×C×H×W scores, N×H×W of one channel, or chosen classes of either shape as integers.

    One channel, or channels in [0, 1] that do not sum to 1: masks, each channel one. Else the class with the highest
    score.
    """
    r, c = (array[:, None] if array.ndim == 3 else array for array in (reference, candidate))  # N×C×H×W
    if has_integers(r):
        return _compare_classes(r, c)
    if r.shape[1] == 1 or (_are_probabilities(r) and not sum_to_one(r, 1)):
        return _compare_masks(r, c)
    return _compare_classes(r.argmax(axis=1), c.argmax(axis=1))


def _compare_masks(reference: Array, candidate: Array) -> list[CostFigure]:
    """Masks at each threshold: mean IoU over the samples that have one, and the share of pixels that change sides."""
    thresholds = PROBABILITY_THRESHOLDS if _are_probabilities(reference) else LOGIT_THRESHOLDS
    figures: list[CostFigure] = []
    for threshold in thresholds:
        r, c = (array.reshape(len(array), -1) > threshold for array in (reference, candidate))  # N×pixels
        present = r.mean(axis=1) >= SMALLEST_MASK
        if present.any():
            overlaps = (r & c).sum(axis=1)[present] / (r | c).sum(axis=1)[present]
            figures.append(make_share(f"mask IoU at {threshold:g}", overlaps, np.ones(len(overlaps))))
        if threshold == thresholds[0]:
            figures += [_measure_changes(r, c), make_figure("samples with a mask", int(present.sum()), "")]
    return figures


def _compare_classes(reference: Array, candidate: Array) -> list[CostFigure]:
    """Changed pixels, and the mean over the reference's classes of Σ intersections / Σ unions over all samples."""
    ids, indices = np.unique(np.stack([reference, candidate]), return_inverse=True)
    r, c = indices.reshape(2, -1)
    totals = np.bincount(r, minlength=len(ids))
    shared = np.bincount(r[r == c], minlength=len(ids))
    unions = totals + np.bincount(c, minlength=len(ids)) - shared
    present = totals >= SMALLEST_CLASS * r.size
    figures = [_measure_changes(*(array.reshape(len(array), -1) for array in (reference, candidate)))]
    if present.any():
        figures.append(make_figure("class IoU", float((shared[present] / unions[present]).mean()), "share"))
    return figures


def _measure_changes(reference: Array, candidate: Array) -> CostFigure:
    """Share of pixels with another mask or class; both are N×pixels."""
    changed = (reference != candidate).sum(axis=1)
    return make_share("changed pixels", changed, np.full(len(changed), reference.shape[1]), lower_is_better=True)


def _are_probabilities(array: Array) -> bool:
    return bool(array.min() >= -1e-6 and array.max() <= 1 + 1e-6)
