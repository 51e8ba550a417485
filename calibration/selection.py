"""Deterministic selection of samples."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import replace

from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError


def select_subset(samples: LazyDataset, count: int, seed: int = 0) -> LazyDataset:
    """Select `count` samples without repetition, in the set's order; the same on every machine."""
    check_count(samples, count)
    indices = select_indices(range(len(samples)), count, seed)
    return replace(samples, items=[samples.items[index] for index in indices], seed=seed)


def check_count(samples: LazyDataset, count: int) -> None:
    """Raise InputError if the set has fewer than `count` samples."""
    if not 1 <= count <= len(samples):
        raise InputError(
            f"{count} samples were requested, and {samples.name!r} ({samples.split}) has {len(samples)}.",
            f"Request 1 to {len(samples)}, or give a larger set.",
        )


def select_indices(indices: Iterable[int], count: int, seed: int) -> list[int]:
    """Select `count` of the indices: those with the smallest SHA-256 of seed and index. Returned in ascending order.

    A hash rather than a random generator, because its results never change with a library's release.
    """

    def hash_index(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{index}".encode()).digest()

    return sorted(heapq.nsmallest(count, indices, key=hash_index))
