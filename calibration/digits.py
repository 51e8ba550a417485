"""scikit-learn's handwritten digits: 1,797 scans of 8×8 pixels in 17 shades of grey, written by 13 people."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.calibration.manifest import SetManifest
from deploykit.core.calibration.selection import select_indices
from deploykit.core.values import Sample

HELD_OUT: Final = 4
"""One digit in this many is held out, in every class."""


def load_digits(manifest: SetManifest, split: str) -> LazyDataset:
    _, labels = _read_digits()
    return LazyDataset(
        name=manifest.name,
        split=split,
        real=manifest.real,
        classes=manifest.classes,
        items=_split_indices(labels, split),
        load_sample=_make_sample,
    )


def _split_indices(labels: NDArray[np.int64], split: str) -> list[int]:
    """Indices of the split's digits, ascending."""
    held_out: set[int] = set()
    for label in range(10):
        members = [int(index) for index in np.flatnonzero(labels == label)]
        held_out.update(select_indices(members, len(members) // HELD_OUT, seed=0))
    wanted = {"all": (True, False), "train": (False,), "heldout": (True,)}[split]
    return [index for index in range(len(labels)) if (index in held_out) in wanted]


def _make_sample(index: int) -> Sample:
    images, labels = _read_digits()
    return Sample(name=f"digit-{index:04}", image=np.stack([images[index]] * 3, axis=-1), label=int(labels[index]))


@lru_cache(maxsize=1)
def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read images (N×8×8, 0…16 scaled to 0…255) and labels (N). 115 kB, so they stay cached."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    shades = digits.images.astype(np.int64)
    return ((shades * 255 + 8) // 16).astype(np.uint8), digits.target
