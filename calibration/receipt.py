"""The receipt: which samples were used, down to their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
import numpy as np

from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.values import DataRecord, Pixels, Sample, SampleRecord, TensorSample


def record(source: LazySet, samples: Iterable[Sample | TensorSample] | None = None) -> DataRecord:
    """What was used of `source`: all of it, or the given samples, which are read once and not kept."""
    tally = Tally()
    for sample in source if samples is None else samples:
        tally.add(sample, examine(sample))
    return tally.record(source)


def examine(sample: Sample | TensorSample) -> SampleRecord:
    """What a receipt says of one sample: its name, a digest of size and content without the label, and whether it is
    one colour, or one number, all over.
    """
    digest = hashlib.sha256()
    update(digest, msgspec.structs.replace(sample, label=None))
    if isinstance(sample, TensorSample):
        constant = all((tensor == tensor.flat[0]).all() for tensor in sample.tensors.values())
        return SampleRecord(sample.name, digest.hexdigest(), bool(constant))
    return SampleRecord(sample.name, digest.hexdigest(), _constant(sample.image))


class Tally:
    """A receipt that grows with every sample; no pixel is kept."""

    def __init__(self, multiple: int = 1) -> None:
        """Samples count in groups of `multiple`: those behind the last whole group are left out of the receipt."""
        self._multiple = multiple
        self._digest = self._whole = hashlib.sha256()
        self._samples: list[SampleRecord] = []
        self._labelled: list[bool] = []

    def add(self, sample: Sample | TensorSample, examined: SampleRecord) -> None:
        """The next sample, and what `examine` said of it."""
        update(self._digest, sample)
        self._samples.append(examined)
        self._labelled.append(sample.label is not None)
        if len(self._samples) % self._multiple == 0:
            self._whole = self._digest.copy()

    @property
    def samples(self) -> tuple[SampleRecord, ...]:
        """Those in whole groups, in order."""
        return tuple(self._samples[: len(self._samples) // self._multiple * self._multiple])

    def record(self, source: LazySet, skipped: int = 0) -> DataRecord:
        """What has been added so far, as used of `source`. `labelled`: every one of them has a label."""
        samples = self.samples
        return DataRecord(
            name=source.name,
            split=source.split,
            count=len(samples),
            real=source.real,
            labelled=bool(samples) and all(self._labelled[: len(samples)]),
            sha256=(self._whole if samples else hashlib.sha256()).hexdigest(),
            seed=source.seed,
            skipped=skipped,
            constant=sum(sample.constant for sample in samples),
        )


def update(digest: hashlib._Hash, sample: Sample | TensorSample) -> None:
    """Size, label and pixels. The name is left out: a renamed file is the same data."""
    label = "" if sample.label is None else str(sample.label)
    if isinstance(sample, TensorSample):
        for name, tensor in sorted(sample.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape} {label}\n".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return
    if sample.image.dtype == np.uint8:
        height, width, _ = sample.image.shape
        size = f"{height}x{width}"
    else:
        # Said, since these bytes could be those of an image four times as wide.
        size = " ".join(["float32", *map(str, sample.image.shape)])
    digest.update(f"{size} {label}\n".encode())
    digest.update(np.ascontiguousarray(sample.image).data)


def _constant(image: Pixels) -> bool:
    """Whether all pixels are alike. Nearly every photograph is told by its first row, a thousandth of the work."""
    rows: Pixels = image if image.dtype == np.uint8 else image.transpose(1, 2, 0)
    return _alike(rows[:1], rows) and _alike(rows, rows)


def _alike(some: Pixels, image: Pixels) -> bool:
    return bool((some == image[:1, :1]).all())
