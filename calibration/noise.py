"""Images that no camera took: smooth coloured noise, for machines and tests that have nothing better.

White noise would say less: convolutions average it away, and no activation comes near the range it takes on
photographs. So three octaves are added, the coarsest the strongest, as in photographs.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.calibration.manifest import Manifest
from deploykit.core.values import Sample

SIZE: Final = 256
COUNT: Final = 512
OCTAVES: Final = ((4, 4), (16, 2), (64, 1))
"""Cells along a side, and weight."""


def load(manifest: Manifest, split: str) -> LazySet:
    ranges = {"calibration": range(COUNT), "evaluation": range(COUNT, 2 * COUNT), "all": range(2 * COUNT)}
    return LazySet(
        name=manifest.name,
        split=split,
        real=manifest.real,
        classes=manifest.classes,
        items=ranges[split],
        make=_sample,
    )


def _sample(seed: int) -> Sample:
    # Raw bits and integer arithmetic: numpy promises the same bits for ever, but not the same floats.
    bits = np.random.PCG64(seed)
    total = np.zeros((SIZE, SIZE, 3), np.int64)
    for cells, weight in OCTAVES:
        total += weight * _octave(bits, cells).astype(np.int64)
    mean = total // sum(weight for _, weight in OCTAVES)
    # Averaging pulls towards grey; twice the contrast fills the range again.
    return Sample(name=f"noise-{seed:04}", image=np.clip(2 * mean - 128, 0, 255).astype(np.uint8))


def _octave(bits: np.random.PCG64, cells: int) -> NDArray[np.uint8]:
    """Random colours on a grid, blown up smoothly to the whole image."""
    colours = (bits.random_raw(cells * cells * 3) >> np.uint64(56)).astype(np.uint8).reshape(cells, cells, 3)
    return np.asarray(Image.fromarray(colours).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
