"""A folder of images, or a tree with one folder per class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Final

from deploykit.core.calibration.image import SUFFIXES, decode
from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.errors import InputError
from deploykit.core.values import Sample

SPLITS: Final = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval", "evaluation"})
"""Names of folders that are no classes: taken for such, images to train on would be among those judged on."""


def load(name: str, split: str) -> LazySet:
    """All images under the folder, sorted by their path in it.

    Where every image lies in a sub-folder, and there are at least two of these, the sub-folders are the classes and a
    label is the position of the sub-folder's name among the sorted names, as torchvision's ImageFolder numbers them.
    """
    folder = Path(name)
    paths = _images(folder)
    if not paths:
        raise InputError(
            f"there is no image under {str(folder)!r}.", f"Images end in {', '.join(sorted(SUFFIXES))}, in any case."
        )
    classes = _classes(folder, paths)
    return LazySet(
        name=folder.resolve().name,
        split=split,
        real=True,
        classes=classes,
        items=paths,
        make=partial(_sample, folder, {title: label for label, title in enumerate(classes)}),
    )


def files(name: str) -> list[Path]:
    """The images under the folder, in the set's order."""
    folder = Path(name)
    return [folder / path for path in _images(folder)]


def _sample(folder: Path, labels: dict[str, int], path: str) -> Sample:
    return Sample(name=path, image=decode(folder / path), label=labels.get(path.split("/")[0]))


def _images(folder: Path) -> list[str]:
    """Paths relative to the folder, with forward slashes, sorted by their parts."""
    found: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for at, subfolders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(at)
        # A link to a folder above would otherwise be walked for ever.
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(at).relative_to(folder).parts
        if real not in seen:
            found += [(*inside, name) for name in files if _is_image(name)]
        seen.add(real)
    return ["/".join(parts) for parts in sorted(found)]


def _is_image(name: str) -> bool:
    # A leading dot marks what file managers leave behind (`._photo.jpg` holds no picture).
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _classes(folder: Path, paths: list[str]) -> tuple[str, ...]:
    """Names of the class folders; empty where the images are not arranged by class."""
    if any("/" not in path for path in paths):
        return ()
    names = sorted({path.split("/")[0] for path in paths})
    if len(names) < 2:
        return ()
    if SPLITS.issuperset(name.lower() for name in names):
        raise InputError(
            f"{str(folder)!r} holds {' and '.join(map(repr, names))}, which are splits of one set and no classes.",
            f"Give one of them, such as {str(folder / names[0])!r}.",
        )
    # An empty class folder would shift every label behind it.
    empty = sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name not in names
    )
    if empty:
        raise InputError(
            f"the class folders {', '.join(map(repr, empty))} under {str(folder)!r} hold no image.",
            "Add images to them or remove them: labels are numbered by the sorted folder names.",
        )
    return tuple(names)


def _refuse(error: OSError) -> None:
    raise InputError(f"the folder {error.filename!r} cannot be read: {error.strerror}.", "Grant read permission on it.")
