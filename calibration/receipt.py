"""The receipt: which samples were used, down to their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from calibration.lazy import LazySet
from deploykit.values import DataRecord, Sample


def record(source: LazySet, samples: Iterable[Sample] | None = None) -> DataRecord:
    """What was used of `source`: all of it, or the given samples, which are read once and not kept."""
    digest = hashlib.sha256()
    count = 0
    for sample in source if samples is None else samples:
        update(digest, sample)
        count += 1
    return DataRecord(
        name=source.name,
        split=source.split,
        count=count,
        real=source.real,
        labelled=bool(source.classes),
        sha256=digest.hexdigest(),
    )


def update(digest: hashlib._Hash, sample: Sample) -> None:
    """Height, width, label and pixels. The name is left out: a renamed file is the same data."""
    height, width, _ = sample.image.shape
    label = "" if sample.label is None else str(sample.label)
    digest.update(f"{height}x{width} {label}\n".encode())
    digest.update(np.ascontiguousarray(sample.image).data)
