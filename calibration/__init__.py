"""Calibration and evaluation data: sample sets by name or by path, and a record of the samples used.

    photos = open_set("photos", split="calibration")
    selection = select_samples(photos, 256, seed=0)
    selection.samples, selection.record, selection.digests

A named set is a manifest (`photos.toml`) with one loader per kind of source (`crops.py`); `kinds.py` detects the kind
of a user's files. Nothing is downloaded: the named sets are part of the wheels of scikit-learn and scikit-image.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Final

from deploykit.core.calibration.choice import SampleSelection, select_samples
from deploykit.core.calibration.image import UndecodableImage, decode_image
from deploykit.core.calibration.kinds import Purpose, detect_kind
from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.calibration.manifest import SetManifest, read_manifest
from deploykit.core.calibration.overlap import find_common_samples
from deploykit.core.calibration.prefetch import prefetch_results
from deploykit.core.calibration.receipt import record_samples
from deploykit.core.calibration.selection import select_subset
from deploykit.core.calibration.tensors import NOISE, open_tensors
from deploykit.core.errors import InputError, format_unknown
from deploykit.core.extras import install_remedy

__all__ = [
    "NOISE",
    "SETS",
    "LazyDataset",
    "Purpose",
    "SampleSelection",
    "UndecodableImage",
    "decode_image",
    "find_common_samples",
    "list_files",
    "open_set",
    "open_tensors",
    "prefetch_results",
    "record_samples",
    "select_samples",
    "select_subset",
    "split_for",
]

SETS: Final = {
    "digits": "digits.toml",
    "photos": "photos.toml",
    "synthetic": "synthetic.toml",
}
"""Named sets and their manifests, in this folder."""

LOADERS: Final = {
    "crops": "deploykit.core.calibration.crops:load_crops",
    "digits": "deploykit.core.calibration.digits:load_digits",
    "noise": "deploykit.core.calibration.noise:load_noise",
}
"""Loader by kind of source: "module:function" of type `(manifest, split) -> LazyDataset`, imported on demand."""


def open_set(name_or_path: str, split: str = "all") -> LazyDataset:
    """Open a named set, or the data at a path: a folder of images, CIFAR-10's binary files, .npy or .npz, WebDataset's
    .tar (one, a folder of them, or `shards-{000..004}.tar`), or a .txt, .csv or .lst that lists images.

    A set's name takes precedence over a folder of the same name; write `./photos` for the folder. Among paths, only
    CIFAR-10's folder has splits other than `all`.
    """
    if name_or_path in SETS:
        return _open_named_set(read_manifest(SETS[name_or_path]), split)
    kind = detect_kind(name_or_path)
    if kind is None:
        raise InputError(
            f"{name_or_path!r} is neither a named set nor a folder or file: "
            f"{format_unknown('set', name_or_path, SETS)}",
            "Give one of these names, or the path of your images.",
        )
    if split not in ("all", *kind.splits.values()):
        raise InputError(f"{name_or_path!r} has no split {split!r}.", "Give the path of that split instead.")
    return kind.load(name_or_path, split)


def split_for(name_or_path: str, purpose: Purpose) -> str:
    """The split of a set to use for `calibration` or `evaluation`; the two share no image. A path without splits has
    `all` for both, which are the same images: check with `find_common_samples`.
    """
    if name_or_path in SETS:
        return read_manifest(SETS[name_or_path]).splits[purpose]
    kind = detect_kind(name_or_path)
    return "all" if kind is None else kind.splits[purpose]


def list_files(name_or_path: str) -> tuple[Path, ...] | None:
    """Every file that the set at a path depends on; None for a named set and for a path that does not exist."""
    kind = None if name_or_path in SETS else detect_kind(name_or_path)
    return None if kind is None else tuple(kind.files(name_or_path))


def _open_named_set(manifest: SetManifest, split: str) -> LazyDataset:
    choices = ("all", *manifest.splits.values())
    if split not in choices:
        raise InputError(format_unknown(f"split of {manifest.name}", split, choices), "")
    if manifest.module is not None and importlib.util.find_spec(manifest.module) is None:
        raise InputError(
            f"the set {manifest.name!r} is part of {manifest.package}, which is not installed.",
            install_remedy("datasets"),
        )
    module, _, function = LOADERS[manifest.loader].partition(":")
    dataset: LazyDataset = getattr(importlib.import_module(module), function)(manifest, split)
    return dataset
