"""Top-1 drop on labelled samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import InputError
from deploykit.core.values import TopOneDrop
from deploykit.evaluate.cost.classes import class_scores
from deploykit.evaluate.cost.intervals import Z

Array = NDArray[Any]


def measure_drop(reference: Array, candidate: Array, labels: Array) -> TopOneDrop:
    """Top-1 accuracy of both, N×C (×1×1) scores and N labels, and the drop with its 95 % interval for paired samples.

    Only the samples that one of the two gets right and the other wrong tell them apart: `lost` and `gained` of them.
    The interval is D. G. Bonett and R. M. Price's (Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data, Journal of Educational and Behavioral Statistics 37, 2012, 479 to 488): with
    p = (lost + 1) / (N + 2) and q = (gained + 1) / (N + 2), it is p − q ± Z·√((p + q − (p − q)²) / (N + 2)).

    A candidate's sample with NaN or infinity is wrong. InputError for labels that the network has no class for,
    ValueError for arrays that are not class scores of the same samples.
    """
    r, c = class_scores(reference), class_scores(candidate)
    if r.shape != c.shape or labels.shape != r.shape[:1] or not len(labels):
        raise ValueError(f"scores and labels must be of the same samples: {r.shape}, {c.shape}, {labels.shape}")
    if labels.min() < 0 or labels.max() >= r.shape[1]:
        raise InputError(
            f"the data has labels from {labels.min()} to {labels.max()}, but the network has {r.shape[1]} classes.",
            "Use data with the classes that the network was trained on.",
        )
    right_r, right_c = (
        (scores.argmax(axis=1) == labels) & np.isfinite(scores).all(axis=1) for scores in (r, c)
    )  # N each
    lost, gained = int((right_r & ~right_c).sum()), int((right_c & ~right_r).sum())
    low, high = _drop_interval(lost, gained, len(labels))
    drop = (lost - gained) / len(labels)
    return TopOneDrop(
        reference=float(right_r.mean()),
        candidate=float(right_c.mean()),
        drop=drop,
        low=min(low, drop),
        high=max(high, drop),
        lost=lost,
        gained=gained,
        count=len(labels),
    )


def _drop_interval(lost: int, gained: int, count: int) -> tuple[float, float]:
    p, q = (lost + 1) / (count + 2), (gained + 1) / (count + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (count + 2))
    return max(-1.0, p - q - half), min(1.0, p - q + half)
