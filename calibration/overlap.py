"""Check whether two sets share an image, by the digests of their pixels: a copy may have any name."""

from __future__ import annotations

from collections.abc import Iterable

from deploykit.core.values import SampleRecord


def find_common_samples(first: Iterable[SampleRecord], second: Iterable[SampleRecord]) -> tuple[tuple[str, str], ...]:
    """Find samples with identical pixels: one pair of names (in `first`, in `second`) for each sample of `second` that
    is also in `first`, in the order of `second`. An empty result means that the sets are disjoint.

    Only exact duplicates are found. The same photograph at another size, crop or compression has other pixels and is
    not detected: keep such images in one split.

    Single-colour images are ignored: two black frames are equal without being copies, and neither carries information
    about the other. `DataRecord.constant` counts them.
    """
    names: dict[str, str] = {}
    for sample in first:
        names.setdefault(sample.sha256, sample.name)
    return tuple(
        (names[sample.sha256], sample.name) for sample in second if sample.sha256 in names and not sample.constant
    )
