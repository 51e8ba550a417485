"""Calibration data: real images by name or by folder, and a receipt of what was used.

    photos = open_set("photos", split="calibration")
    chosen = subset(photos, 256, seed=0)
    receipt = record(chosen)

A named set is a manifest (`photos.toml`) read by one loader per kind of source (`crops.py`). Nothing is downloaded: the
named sets live inside the wheels of scikit-learn and scikit-image.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Final, Literal

from calibration.folder import open_folder
from calibration.image import decode
from calibration.lazy import LazySet
from calibration.manifest import Manifest, read_manifest
from calibration.receipt import record
from calibration.selection import subset
from deploykit.errors import InputError, unknown

__all__ = ["SETS", "LazySet", "decode", "open_set", "record", "split_for", "subset"]

SETS: Final = {
    "digits": "digits.toml",
    "photos": "photos.toml",
    "synthetic": "synthetic.toml",
}
"""Named sets and their manifests, beside this file."""

LOADERS: Final = {
    "crops": "calibration.crops",
    "digits": "calibration.digits",
    "noise": "calibration.noise",
}
"""Kinds of source; each module has `load(manifest, split) -> LazySet`. Imported when a set is opened."""


def open_set(name_or_folder: str, split: str = "all") -> LazySet:
    """The set of that name, or else the images under that folder; a folder has only the split `all`.

    A name wins over a folder that is called the same; `./photos` is the folder.
    """
    if name_or_folder in SETS:
        return _open_named(read_manifest(SETS[name_or_folder]), split)
    folder = Path(name_or_folder)
    if not folder.exists():
        raise InputError(
            f"{name_or_folder!r} is neither a named set nor a folder: {unknown('set', name_or_folder, SETS)}",
            "Give one of these names, or a folder of images.",
        )
    if split != "all":
        raise InputError(f"the folder {name_or_folder!r} has no split {split!r}.", "Give the folder of that split.")
    return open_folder(folder)


def split_for(name_or_folder: str, purpose: Literal["calibration", "evaluation"]) -> str:
    """The split of a set that serves `calibration` or `evaluation`: the two share no image. `all` for a folder."""
    if name_or_folder not in SETS:
        return "all"
    splits = read_manifest(SETS[name_or_folder]).splits
    return splits[purpose]


def _open_named(manifest: Manifest, split: str) -> LazySet:
    choices = ("all", *manifest.splits.values())
    if split not in choices:
        raise InputError(unknown(f"split of {manifest.name}", split, choices), "")
    if manifest.module is not None and importlib.util.find_spec(manifest.module) is None:
        raise InputError(
            f"the set {manifest.name!r} lives in {manifest.package}, which is not installed.",
            "Run pip install 'deploykit[datasets]'.",
        )
    opened: LazySet = importlib.import_module(LOADERS[manifest.loader]).load(manifest, split)
    return opened
