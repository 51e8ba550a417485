"""Which classes and which samples do the answers part for?"""

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

SIDE = 96
"""Pixels that a thumbnail's longer side has at most."""

QUALITY = 80
"""Of its JPEG: some 3 kB each."""


def changes(
    reference: NDArray[Any], candidate: NDArray[Any], labels: Sequence[int | None], names: Sequence[str]
) -> tuple[ClassChange, ...]:
    """The classes with samples that the candidate puts elsewhere than the reference does, the most changed first.

    N×C scores each, N labels below C; samples without a label are left out. `names` are those of all C classes.
    """
    said, says = reference.argmax(axis=1), candidate.argmax(axis=1)
    found = []
    for label in sorted({each for each in labels if each is not None}):
        of_class = np.array([each == label for each in labels])
        moved = says[of_class & (said != says)]
        if moved.size:
            before, now = (int((side[of_class] == label).sum()) for side in (said, says))
            went_to = dict(Counter(names[index] for index in moved).most_common())
            found.append(ClassChange(label, names[label], int(of_class.sum()), before, now, went_to))
    return tuple(sorted(found, key=lambda change: -sum(change.went_to.values())))


def divergences(reference: NDArray[Any], candidate: NDArray[Any], head: Head) -> list[float]:
    """KL(reference ‖ candidate) of every sample, in nats; N×C scores each. An answer that is no number has the largest
    float, since JSON knows no infinity.
    """
    kl = metrics.kl_of_probabilities if head == "probabilities" else metrics.kl_of_logits
    rows = zip(reference[:, None], candidate[:, None], strict=True)
    return [min(kl(*row), sys.float_info.max) for row in rows]


def thumbnail(image: Pixels) -> str:
    """A picture (H×W×3, uint8, RGB) as a data URI: JPEG, its longer side at most 96 pixels. Empty for an input that was
    preprocessed elsewhere, which is no picture any more.
    """
    if image.dtype != np.uint8:
        return ""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
