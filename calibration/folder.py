"""Folder of images, or tree with one folder per class."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

from deploykit.core.calibration.image import SUFFIXES, decode_image
from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError
from deploykit.core.files import escape_undecodable
from deploykit.core.values import Sample

SPLIT_NAMES: Final = frozenset(
    {"train", "training", "val", "valid", "validation", "test", "testing", "eval", "evaluation"}
)
"""Folder names that are splits and not classes: read as classes, they would mix training images into the evaluation."""


MAX_LISTED: Final = 4
"""Other files, and endings, that are named in a message."""


def load_folder(name: str, split: str) -> LazyDataset:
    """Load all images under the folder, sorted by their relative path.

    If every image is in a sub-folder and there are at least two of them, the sub-folders are the classes, and a label
    is the index of the sub-folder's name among the sorted names, as in torchvision's ImageFolder.
    """
    folder = Path(name)
    paths, others = _find_files(folder)
    if not paths:
        raise InputError(
            f"there is no image under {str(folder)!r}{f', only {_count_endings(others)}' if others else ''}.",
            f"Images end in {', '.join(sorted(SUFFIXES))}, in any case.",
        )
    classes = _class_folders(folder, paths)
    title = escape_undecodable(folder.resolve().name)
    return LazyDataset(
        name=title,
        split=split,
        real=True,
        classes=tuple(map(escape_undecodable, classes)),
        items=paths,
        notes=(_describe_others(title, others),) if others else (),
        load_sample=partial(_decode_sample, folder, {title: label for label, title in enumerate(classes)}),
    )


def list_folder_images(name: str) -> list[Path]:
    """List the images under the folder in the set's order."""
    folder = Path(name)
    return [folder / path for path in _find_files(folder)[0]]


def _decode_sample(folder: Path, labels: dict[str, int], path: str) -> Sample:
    return Sample(
        name=escape_undecodable(path), image=decode_image(folder / path), label=labels.get(path.split("/")[0])
    )


def _find_files(folder: Path) -> tuple[list[str], list[str]]:
    """List the paths of images, and of other files, relative to the folder, with slashes, sorted by their parts.

    Files and folders with a leading dot are in neither list: file managers leave them.
    """
    images: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    visited: set[str] = set()
    for directory, subfolders, files in os.walk(folder, onerror=_raise_error, followlinks=True):
        real_path = os.path.realpath(directory)
        # A link to a parent folder would otherwise be followed for ever.
        subfolders[:] = [] if real_path in visited else sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(directory).relative_to(folder).parts
        if real_path not in visited:
            for name in files:
                if not name.startswith("."):  # `._photo.jpg` is not an image
                    (images if Path(name).suffix.lower() in SUFFIXES else others).append((*relative, name))
        visited.add(real_path)
    return ["/".join(parts) for parts in sorted(images)], ["/".join(parts) for parts in sorted(others)]


def _describe_others(title: str, others: list[str]) -> str:
    """Say in one line what lies next to the images: how many files of each ending, and the first names."""
    names = ", ".join(map(escape_undecodable, others[:MAX_LISTED]))
    more = f" and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
    return f"Files of {title} that are not read as images: {_count_endings(others)} ({names}{more})."


def _count_endings(others: list[str]) -> str:
    """Count files by their ending, the most frequent first: `12 .gif, 1 .txt`."""
    endings = Counter(escape_undecodable(Path(name).suffix.lower()) or "without ending" for name in others)
    counts = [f"{count} {ending}" for ending, count in endings.most_common(MAX_LISTED)]
    rest = sum(endings.values()) - sum(count for _, count in endings.most_common(MAX_LISTED))
    return ", ".join(counts + ([f"{rest} others"] if rest else []))


def _class_folders(folder: Path, paths: list[str]) -> tuple[str, ...]:
    """Names of the class folders; empty if the images are not arranged by class."""
    if any("/" not in path for path in paths):
        return ()
    names = sorted({path.split("/")[0] for path in paths})
    if len(names) < 2:
        return ()
    if SPLIT_NAMES.issuperset(name.lower() for name in names):
        raise InputError(
            f"{str(folder)!r} holds {' and '.join(map(repr, names))}, which are splits of one set, not classes.",
            f"Give one of them, such as {str(folder / names[0])!r}.",
        )
    # An empty class folder would shift all following labels.
    empty = sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name not in names
    )
    if empty:
        raise InputError(
            f"the class folders {', '.join(map(repr, empty))} under {str(folder)!r} contain no image.",
            "Add images to them or remove them: labels are the indices of the sorted folder names.",
        )
    return tuple(names)


def _raise_error(error: OSError) -> None:
    raise InputError(f"the folder {error.filename!r} cannot be read: {error.strerror}.", "Grant read permission on it.")
