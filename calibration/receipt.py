"""Data records: which samples were used, with digests of their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
import numpy as np

from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.values import DataRecord, Pixels, Sample, SampleRecord, TensorSample


def record_samples(source: LazyDataset, samples: Iterable[Sample | TensorSample] | None = None) -> DataRecord:
    """Record all samples of `source`, or the given ones, which are read once and not kept."""
    tally = SampleTally()
    for sample in source if samples is None else samples:
        tally.add_sample(sample, examine_sample(sample))
    return tally.create_record(source)


def examine_sample(sample: Sample | TensorSample) -> SampleRecord:
    """Record one sample: its name, a digest of size and content without the label, and whether all its pixels (or
    numbers) are equal.
    """
    digest = hashlib.sha256()
    update_digest(digest, msgspec.structs.replace(sample, label=None))
    if isinstance(sample, TensorSample):
        constant = all((tensor == tensor.flat[0]).all() for tensor in sample.tensors.values())
        return SampleRecord(sample.name, digest.hexdigest(), bool(constant))
    return SampleRecord(sample.name, digest.hexdigest(), _is_constant(sample.image))


class SampleTally:
    """Data record that is built sample by sample without keeping pixels."""

    def __init__(self, multiple: int = 1) -> None:
        """`multiple` is the group size: samples after the last whole group are not part of the record."""
        self._multiple = multiple
        self._digest = self._whole = hashlib.sha256()
        self._samples: list[SampleRecord] = []
        self._labelled: list[bool] = []

    def add_sample(self, sample: Sample | TensorSample, examined: SampleRecord) -> None:
        """Add the next sample and its record from `examine_sample`."""
        update_digest(self._digest, sample)
        self._samples.append(examined)
        self._labelled.append(sample.label is not None)
        if len(self._samples) % self._multiple == 0:
            self._whole = self._digest.copy()

    @property
    def samples(self) -> tuple[SampleRecord, ...]:
        """Records of the samples in whole groups, in order."""
        return tuple(self._samples[: len(self._samples) // self._multiple * self._multiple])

    def create_record(self, source: LazyDataset, skipped: int = 0) -> DataRecord:
        """Create the record of the samples added so far. It is `labelled` if every sample has a label."""
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


def update_digest(digest: hashlib._Hash, sample: Sample | TensorSample) -> None:
    """Add size, label and pixels to the digest, but not the name: a renamed file is the same data."""
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
        # The type is included, since these bytes could also be a uint8 image four times as wide.
        size = " ".join(["float32", *map(str, sample.image.shape)])
    digest.update(f"{size} {label}\n".encode())
    digest.update(np.ascontiguousarray(sample.image).data)


def _is_constant(image: Pixels) -> bool:
    """Whether all pixels are equal. The first row, a thousandth of the work, rules out nearly every photograph."""
    rows: Pixels = image if image.dtype == np.uint8 else image.transpose(1, 2, 0)
    return _is_uniform(rows[:1], rows) and _is_uniform(rows, rows)


def _is_uniform(rows: Pixels, image: Pixels) -> bool:
    return bool((rows == image[:1, :1]).all())
