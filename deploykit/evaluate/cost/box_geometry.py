"""Boxes: their format, IoU and non-maximum suppression, in NumPy."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BoxFormat = Literal["xyxy", "xywh"]
"""Two corners, or the center with width and height."""

VALID: Final = 0.9
"""Share of boxes that must have a positive width and height: decoders clamp the others."""


def find_box_format(boxes: Array) -> BoxFormat | None:
    """The format in which nearly all of …×4 numbers are boxes; None: in neither.

    Corners are tried first, since a corner lies beyond the other in all boxes, but a width exceeds the center's
    coordinate only at the left edge.
    """
    first, second = boxes[..., :2], boxes[..., 2:]
    if (second > first).all(axis=-1).mean() >= VALID:
        return "xyxy"
    if (second > 0).all(axis=-1).mean() >= VALID:
        return "xywh"
    return None


def to_corners(boxes: Array, box_format: BoxFormat) -> Array:
    """…×4 boxes as x1, y1, x2, y2, in float64."""
    boxes = boxes.astype(np.float64)
    if box_format == "xyxy":
        return boxes
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([center - half, center + half], axis=-1)


def box_iou(first: Array, second: Array) -> Array:
    """IoU of boxes as corners, …×4 each, broadcast against each other; 0 for boxes without area."""
    top_left = np.maximum(first[..., :2], second[..., :2])
    bottom_right = np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=-1)
    union = _box_area(first) + _box_area(second) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def suppress_boxes(boxes: Array, scores: Array, classes: Array, limit: float) -> NDArray[np.intp]:
    """Indices of the boxes that non-maximum suppression keeps, best first: K×4 corners, K scores, K classes. A box is
    dropped where a better one of its class has an IoU above `limit`.
    """
    order = np.argsort(-scores, kind="stable")
    selected = []
    while order.size:
        best, rest = order[0], order[1:]
        selected.append(best)
        repeats = (classes[rest] == classes[best]) & (box_iou(boxes[best], boxes[rest]) > limit)
        order = rest[~repeats]
    return np.array(selected, np.intp)


def _box_area(boxes: Array) -> Array:
    area: Array = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1)
    return area
