"""Differences by class and by sample."""

from __future__ import annotations

import base64
import io
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.core.values import ClassChange, Head, Pixels
from deploykit.evaluate.parity import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

THUMBNAIL_SIDE = 96
"""Maximum length of a thumbnail's longer side, in pixels."""

JPEG_QUALITY = 80
"""JPEG quality of thumbnails: about 3 kB each."""


def find_class_changes(
    reference: NDArray[Any], candidate: NDArray[Any], labels: Sequence[int | None], names: Sequence[str]
) -> tuple[ClassChange, ...]:
    """Classes with samples that the candidate classifies differently from the reference, the most changed first.

    N×C scores each, N labels below C; samples without a label are ignored. `names` are those of all C classes.
    """
    expected, predicted = reference.argmax(axis=1), candidate.argmax(axis=1)
    changes = []
    for label in sorted({label for label in labels if label is not None}):
        in_class = np.array([sample_label == label for sample_label in labels])
        moved = predicted[in_class & (expected != predicted)]
        if moved.size:
            before, after = (int((classes[in_class] == label).sum()) for classes in (expected, predicted))
            predicted_as = dict(Counter(names[index] for index in moved).most_common())
            changes.append(ClassChange(label, names[label], int(in_class.sum()), before, after, predicted_as))
    return tuple(sorted(changes, key=lambda change: -sum(change.predicted_as.values())))


def sample_divergences(reference: NDArray[Any], candidate: NDArray[Any], head: Head) -> list[float]:
    """KL(reference ‖ candidate) of every sample, in nats; N×C scores each. An output that is not finite gets the
    largest float, since JSON has no infinity.
    """
    kl = metrics.kl_of_probabilities if head == "probabilities" else metrics.kl_of_logits
    rows = zip(reference[:, None], candidate[:, None], strict=True)
    return [min(kl(*row), sys.float_info.max) for row in rows]


def encode_thumbnail(image: Pixels) -> str:
    """Encode an image (H×W×3, uint8, RGB) as a JPEG data URI, its longer side at most 96 pixels. Empty for an input
    that is already preprocessed and no longer an image.
    """
    if image.dtype != np.uint8:
        return ""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
