"""Calibration data: real images by name or by path, and a receipt of what was used.

    photos = open_set("photos", split="calibration")
    taken = take(photos, 256, seed=0)
    taken.samples, taken.record, taken.digests

A named set is a manifest (`photos.toml`) read by one loader per kind of source (`crops.py`); `kinds.py` knows those of
what a user brings. Nothing is downloaded: the named sets live inside the wheels of scikit-learn and scikit-image.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Final

from deploykit.core.calibration.choice import Taken, take
from deploykit.core.calibration.image import Undecodable, decode
from deploykit.core.calibration.kinds import Purpose, kind_of
from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.calibration.manifest import Manifest, read_manifest
from deploykit.core.calibration.overlap import common
from deploykit.core.calibration.prefetch import ahead
from deploykit.core.calibration.receipt import record
from deploykit.core.calibration.selection import subset
from deploykit.core.calibration.tensors import NOISE, open_tensors
from deploykit.core.errors import InputError, unknown

__all__ = [
    "NOISE",
    "SETS",
    "LazySet",
    "Purpose",
    "Taken",
    "Undecodable",
    "ahead",
    "common",
    "decode",
    "files",
    "open_set",
    "open_tensors",
    "record",
    "split_for",
    "subset",
    "take",
]

SETS: Final = {
    "digits": "digits.toml",
    "photos": "photos.toml",
    "synthetic": "synthetic.toml",
}
"""Named sets and their manifests, beside this file."""

LOADERS: Final = {
    "crops": "deploykit.core.calibration.crops",
    "digits": "deploykit.core.calibration.digits",
    "noise": "deploykit.core.calibration.noise",
}
"""Kinds of source; each module has `load(manifest, split) -> LazySet`. Imported when a set is opened."""


def open_set(name_or_path: str, split: str = "all") -> LazySet:
    """The set of that name, or else what lies at that path: a folder of images, CIFAR-10's binary files, .npy or .npz,
    WebDataset's .tar (one, a folder of them, or `shards-{000..004}.tar`), or a .txt, .csv or .lst that lists images.

    A name wins over a folder that is called the same; `./photos` is the folder. Of the paths, only CIFAR-10's folder
    has splits besides `all`.
    """
    if name_or_path in SETS:
        return _open_named(read_manifest(SETS[name_or_path]), split)
    kind = kind_of(name_or_path)
    if kind is None:
        raise InputError(
            f"{name_or_path!r} is neither a named set nor a folder or file: {unknown('set', name_or_path, SETS)}",
            "Give one of these names, or the path of your images.",
        )
    if split not in ("all", *kind.splits.values()):
        raise InputError(f"{name_or_path!r} has no split {split!r}.", "Give the path of that split.")
    return kind.load(name_or_path, split)


def split_for(name_or_path: str, purpose: Purpose) -> str:
    """The split of a set that serves `calibration` or `evaluation`: the two share no image. `all` for a path without
    splits, which serves both with the same images: see `common`.
    """
    if name_or_path in SETS:
        return read_manifest(SETS[name_or_path]).splits[purpose]
    kind = kind_of(name_or_path)
    return "all" if kind is None else kind.splits[purpose]


def files(name_or_path: str) -> tuple[Path, ...] | None:
    """Every file whose content a set at a path depends on; None for a named set, and where nothing is there."""
    kind = None if name_or_path in SETS else kind_of(name_or_path)
    return None if kind is None else tuple(kind.files(name_or_path))


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
