"""Do two sets share an image? Asked of their pixels, since a copy may have any name."""

from __future__ import annotations

from collections.abc import Iterable

from deploykit.core.values import SampleRecord


def common(first: Iterable[SampleRecord], second: Iterable[SampleRecord]) -> tuple[tuple[str, str], ...]:
    """Names of samples that show the same pixels: one pair (in `first`, in `second`) for each sample of `second` that
    is in `first` as well, in the order of `second`. Nothing: the sets are disjoint.

    Only exact duplicates are found. The same photograph at another size, crop or compression has other pixels and
    passes unseen; whoever splits a collection has to keep such families together.

    Images that are one colour all over are left out. Two black frames are equal without one being a copy of the other,
    and nothing can be learnt from the one about the other; how many there are stands in `DataRecord.constant`.
    """
    names: dict[str, str] = {}
    for sample in first:
        names.setdefault(sample.sha256, sample.name)
    return tuple(
        (names[sample.sha256], sample.name) for sample in second if sample.sha256 in names and not sample.constant
    )
