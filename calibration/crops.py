"""Square crops at several scales from the photographs in a package.

All crops of a photograph belong to the same split, so that calibration and evaluation never share a pixel.
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

from deploykit.core.calibration.image import decode_image
from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.calibration.manifest import SetManifest, SourceFile
from deploykit.core.errors import InputError
from deploykit.core.extras import install_remedy, reinstall_command
from deploykit.core.values import Sample

CROP_FRACTIONS: Final = ((1, 1), (2, 3), (1, 2), (1, 3), (1, 4))
"""Sides of the crops, as fractions of the photograph's shorter side."""

MIN_CROP_SIDE: Final = 64
"""Smaller crops are omitted: enlarged to a network's input, they are only blur."""


_LOCKS: Final[dict[Path, Lock]] = {}
"""One lock per photograph."""


class Window(NamedTuple):
    """A square region of a photograph."""

    path: Path
    left: int
    top: int
    side: int


def load_crops(manifest: SetManifest, split: str) -> LazyDataset:
    folder = _find_package(manifest)
    package = manifest.package or ""
    paths = [_check_digest(folder, file, package) for file in manifest.files if split in ("all", file.split)]
    return LazyDataset(
        name=manifest.name,
        split=split,
        real=manifest.real,
        classes=manifest.classes,
        items=[window for path in paths for window in _list_windows(path)],
        load_sample=_crop_sample,
    )


def _find_package(manifest: SetManifest) -> Path:
    """Find the package's folder without importing it, which would take seconds."""
    spec = importlib.util.find_spec(manifest.module or "")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{manifest.package} is not installed.", install_remedy("datasets"))
    return Path(spec.submodule_search_locations[0])


def _check_digest(folder: Path, file: SourceFile, package: str) -> Path:
    """Return the file's path if its SHA-256 is the one in the manifest, else raise InputError."""
    path = folder / file.path
    if not path.is_file():
        raise InputError(f"{str(path)!r} is missing.", f"Reinstall it with:\n  {reinstall_command(package)}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != file.sha256:
        raise InputError(
            f"{str(path)!r} has changed: its SHA-256 is {digest}, not {file.sha256}.",
            f"Reinstall it with:\n  {reinstall_command(package)}",
        )
    return path


def _list_windows(path: Path) -> Iterator[Window]:
    with Image.open(path) as image:
        width, height = image.size
    for part, whole in CROP_FRACTIONS:
        side = -(-min(width, height) * part // whole)
        if side >= MIN_CROP_SIDE:
            yield from (
                Window(path, x, y, side)
                for y in _list_window_starts(height, side)
                for x in _list_window_starts(width, side)
            )


def _list_window_starts(extent: int, side: int) -> list[int]:
    """List the start positions of the fewest evenly spaced windows that cover the extent."""
    gaps = -(-extent // side) - 1
    return [index * (extent - side) // gaps for index in range(gaps + 1)] if gaps else [0]


def _crop_sample(window: Window) -> Sample:
    path, left, top, side = window
    # A copy: the caller must neither keep the photograph alive nor modify it.
    # One thread decodes a photograph while the others that need it wait instead of decoding it too.
    with _LOCKS.setdefault(path, Lock()):
        photograph = _decode_photograph(path)
    image = photograph[top : top + side, left : left + side].copy()
    return Sample(name=f"{path.stem}-{left}-{top}-{side}", image=image)


@lru_cache(maxsize=2)
def _decode_photograph(path: Path) -> NDArray[np.uint8]:
    """Decode a photograph. Crops of one photograph are consecutive, so two cached photographs are enough."""
    return decode_image(path)
