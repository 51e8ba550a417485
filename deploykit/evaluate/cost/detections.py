"""Detections, boxes with scores in one tensor: does the candidate find the same objects?"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost import tensors
from deploykit.evaluate.cost.box_geometry import BoxFormat, box_iou, find_box_format, suppress_boxes, to_corners
from deploykit.evaluate.cost.figures import Bound, make_figure, make_share

Array = NDArray[Any]

MIN_SCORE: Final = 0.25
"""Score from which a box counts, as in the YOLO releases' own prediction."""

SAME_OBJECT: Final = 0.5
"""IoU above which boxes are of one object, in suppression and in matching."""

MOST_BOXES: Final = 1000
"""Boxes per sample, best first, that suppression looks at: its cost grows with their square."""

BEST_ANCHORS: Final = 0.01
"""Share of the anchors, by the reference's score, whose boxes are compared one by one: the others are background, where
nothing was trained to be right."""

MANY_ANCHORS: Final = 0.1
"""Share of anchors that no score may exceed MIN_SCORE at: an image has few objects."""

BOUNDS: Final = {
    "F1 of matched boxes": Bound(
        0.5,
        "an INT8 detector that is worth shipping finds 80 to 95 % of its FP32's boxes; one that finds less than half, "
        "with the whole interval, finds other objects",
    ),
    "median box IoU of the best anchors": Bound(
        0.5, "an anchor's box moves by a few percent under rounding, to an IoU of 0.8 to 0.98, whatever its score"
    ),
    **tensors.BOUNDS,
}


class _Objects(NamedTuple):
    """What suppression leaves of one sample: K×4 corners and K classes, best score first."""

    boxes: Array
    classes: Array


def split_detections(array: Array) -> dict[str, Array]:
    """`boxes`, N×A×4, and `scores`, N×A×C (objectness first where there is one), of N×(4+C)×A or N×A×(4+C). There are
    more anchors than parts.
    """
    rows = array if array.shape[1] > array.shape[2] else array.transpose(0, 2, 1)  # N×A×(4+C)
    return {"boxes": rows[..., :4], "scores": rows[..., 4:]}


def measure_detections(reference: Array, candidate: Array) -> list[CostFigure]:
    """F1 of the boxes after suppression, matched where the class is the same and the IoU at least 0.5; their mean IoU
    and numbers; the IoU of the best anchors' boxes before suppression, which says something without any object too.

    The figures of a tensor where the first four parts are not boxes.
    """
    r, c = split_detections(reference), split_detections(candidate)
    box_format = find_box_format(r["boxes"])
    if box_format is None:
        return tensors.measure_tensor(reference, candidate)
    objectness = has_objectness(r["scores"])
    pairs = [
        (_find_objects(*one, box_format, objectness), _find_objects(*other, box_format, objectness))
        for one, other in zip(_iterate_samples(r), _iterate_samples(c), strict=True)
    ]
    overlaps = [_match_objects(*pair) for pair in pairs]
    matched = np.array([len(found) for found in overlaps])
    found_r, found_c = (np.array([len(pair[side].boxes) for pair in pairs]) for side in (0, 1))
    figures = []
    if (found_r + found_c).any():
        figures.append(make_share("F1 of matched boxes", 2 * matched, found_r + found_c))
    if matched.any():
        figures.append(make_figure("mean IoU of matched boxes", float(np.concatenate(overlaps).mean()), "share"))
    return [
        *figures,
        make_figure("boxes of the reference", int(found_r.sum()), ""),
        make_figure("boxes of the candidate", int(found_c.sum()), ""),
        make_figure("median box IoU of the best anchors", _compare_anchors(r, c, box_format, objectness), "share"),
        make_figure("largest difference of a score", float(np.abs(r["scores"] - c["scores"]).max()), "share", True),
    ]


def has_objectness(scores: Array) -> bool:
    """Whether the first of N×A×C scores is objectness, which the others are to be multiplied with.

    Class scores without an object mean nothing then, and are high at many anchors; without objectness they are high
    at objects only.
    """
    return scores.shape[2] > 1 and bool((scores[..., 1:].max(axis=2) > MIN_SCORE).mean() > MANY_ANCHORS)


def _iterate_samples(parts: dict[str, Array]) -> zip[tuple[Array, Array]]:
    return zip(parts["boxes"], parts["scores"], strict=True)


def _class_scores(scores: Array, objectness: bool) -> Array:
    """…×C scores per class."""
    return scores[..., 1:] * scores[..., :1] if objectness else scores


def _find_objects(boxes: Array, scores: Array, box_format: BoxFormat, objectness: bool) -> _Objects:
    """The objects of one sample, A×4 boxes and A×C scores: each anchor has its best class."""
    per_class = _class_scores(scores, objectness)
    best, classes = per_class.max(axis=1), per_class.argmax(axis=1)
    order = np.argsort(-best, kind="stable")[:MOST_BOXES]
    order = order[best[order] > MIN_SCORE]
    corners = to_corners(boxes[order], box_format)
    selected = suppress_boxes(corners, best[order], classes[order], SAME_OBJECT)
    return _Objects(corners[selected], classes[order][selected])


def _match_objects(reference: _Objects, candidate: _Objects) -> Array:
    """IoU of each matched pair. As in COCO's evaluation, the candidate's boxes take their best free partner in the
    order of their scores.
    """
    free = np.ones(len(reference.boxes), bool)
    overlaps = []
    for box, label in zip(candidate.boxes, candidate.classes, strict=True):
        ious = np.where(free & (reference.classes == label), box_iou(box, reference.boxes), 0.0)
        if ious.size and ious.max() >= SAME_OBJECT:
            free[ious.argmax()] = False
            overlaps.append(ious.max())
    return np.array(overlaps)


def _compare_anchors(r: dict[str, Array], c: dict[str, Array], box_format: BoxFormat, objectness: bool) -> float:
    """Median IoU, anchor by anchor, of the boxes of the reference's best anchors over all samples."""
    best = _class_scores(r["scores"], objectness).max(axis=2).ravel()  # N·A
    count = max(1, round(BEST_ANCHORS * best.size))
    chosen = np.argpartition(-best, count - 1)[:count]
    ours, theirs = (to_corners(parts["boxes"].reshape(-1, 4)[chosen], box_format) for parts in (r, c))
    return float(np.median(box_iou(ours, theirs)))
