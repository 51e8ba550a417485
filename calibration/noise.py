"""Synthetic images of smooth coloured noise, for machines and tests without photographs.

White noise is less useful: convolutions average it away, and activations stay far below their range on photographs.
Three octaves are therefore added, the coarsest with the largest weight, as in photographs.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.calibration.manifest import SetManifest
from deploykit.core.values import Sample

SIZE: Final = 256
COUNT: Final = 512
OCTAVES: Final = ((4, 4), (16, 2), (64, 1))
"""(grid cells per side, weight) of each octave."""


def load_noise(manifest: SetManifest, split: str) -> LazyDataset:
    ranges = {"calibration": range(COUNT), "evaluation": range(COUNT, 2 * COUNT), "all": range(2 * COUNT)}
    return LazyDataset(
        name=manifest.name,
        split=split,
        real=manifest.real,
        classes=manifest.classes,
        items=ranges[split],
        load_sample=_make_sample,
    )


def _make_sample(seed: int) -> Sample:
    # Raw bits and integer arithmetic: numpy guarantees the same bits in every release, but not the same floats.
    bits = np.random.PCG64(seed)
    total = np.zeros((SIZE, SIZE, 3), np.int64)
    for cells, weight in OCTAVES:
        total += weight * _draw_octave(bits, cells).astype(np.int64)
    mean = total // sum(weight for _, weight in OCTAVES)
    # Averaging reduces the contrast; doubling it restores the range.
    return Sample(name=f"noise-{seed:04}", image=np.clip(2 * mean - 128, 0, 255).astype(np.uint8))


def _draw_octave(bits: np.random.PCG64, cells: int) -> NDArray[np.uint8]:
    """Draw random colours on a grid and interpolate them to the image size."""
    colours = (bits.random_raw(cells * cells * 3) >> np.uint64(56)).astype(np.uint8).reshape(cells, cells, 3)
    return np.asarray(Image.fromarray(colours).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
