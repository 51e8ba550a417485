"""A deterministic choice of samples."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import replace

from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.errors import InputError


def subset(samples: LazySet, count: int, seed: int = 0) -> LazySet:
    """`count` samples without repetition, in the set's own order; the same on every machine."""
    check_count(samples, count)
    drawn = draw(range(len(samples)), count, seed)
    return replace(samples, items=[samples.items[index] for index in drawn], seed=seed)


def check_count(samples: LazySet, count: int) -> None:
    """InputError where the set does not hold so many."""
    if not 1 <= count <= len(samples):
        raise InputError(
            f"{count} samples were asked for, and {samples.name!r} ({samples.split}) has {len(samples)}.",
            f"Ask for 1 to {len(samples)}, or give a larger set.",
        )


def draw(indices: Iterable[int], count: int, seed: int) -> list[int]:
    """`count` of the indices, ascending: those whose SHA-256 with the seed comes first.

    A hash rather than a random generator, because no release of any library will ever change what it gives.
    """

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{index}".encode()).digest()

    return sorted(heapq.nsmallest(count, indices, key=rank))
