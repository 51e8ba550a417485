"""Boxes without scores: does each one cover the same place?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost import tensors
from deploykit.evaluate.cost.box_geometry import box_iou, find_box_format, to_corners
from deploykit.evaluate.cost.figures import Bound, make_figure

Array = NDArray[Any]

BOUNDS: Final = {
    "median box IoU": Bound(
        0.5, "rounding moves an edge by a few percent of the box: 0.8 to 0.98; at 0.5 a match is not counted as one"
    ),
    **tensors.BOUNDS,
}


def measure_boxes(reference: Array, candidate: Array) -> list[CostFigure]:
    """Quantiles of the IoU box by box, of N×A×4 boxes as corners or as center, width and height, whichever makes the
    reference's numbers boxes; where neither does, the figures of a tensor.
    """
    box_format = find_box_format(reference)
    if box_format is None:
        return tensors.measure_tensor(reference, candidate)
    overlaps = box_iou(to_corners(reference, box_format), to_corners(candidate, box_format))  # N×A
    median, tenth, worst = np.quantile(overlaps, [0.5, 0.1, 0.01])
    return [
        make_figure("median box IoU", median, "share"),
        make_figure("box IoU, worst 10 %", tenth, "share"),
        make_figure("box IoU, worst 1 %", worst, "share"),
    ]
