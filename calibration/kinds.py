"""Detection of the kind of data at a path, by its name and, for a folder, by the file names in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from deploykit.core.calibration import arrays, cifar, folder, listed, shards
from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError

Purpose = Literal["calibration", "evaluation"]

ALL: Final[Mapping[Purpose, str]] = {"calibration": "all", "evaluation": "all"}
"""Most sources have no splits and use all samples for every purpose."""

ACCEPTED: Final = (
    "Give a folder of images, a .npy or .npz of arrays, the .bin files of CIFAR-10, a .tar of WebDataset, "
    "or a list of images in a .txt, .csv or .lst."
)


class SourceKind(NamedTuple):
    """One kind of source."""

    load: Callable[[str, str], LazyDataset]
    """(path, split) -> dataset."""
    files: Callable[[str], Sequence[Path]]
    """path -> every file that the dataset depends on."""
    splits: Mapping[Purpose, str] = ALL


def _single_file(name: str) -> list[Path]:
    return [Path(name)]


def _list_and_images(name: str) -> list[Path]:
    return [Path(name), *listed.list_listed_files(name)]


FOLDER: Final = SourceKind(folder.load_folder, folder.list_folder_images)
ARRAYS: Final = SourceKind(arrays.load_arrays, _single_file)
LIST: Final = SourceKind(listed.load_listed, _list_and_images)
SHARDS: Final = SourceKind(shards.load_shards, shards.list_shards)
CIFAR: Final = SourceKind(cifar.load_cifar, cifar.list_cifar_files, cifar.SPLITS)
CIFAR_FILE: Final = SourceKind(cifar.load_cifar, cifar.list_cifar_files)


def detect_kind(name: str) -> SourceKind | None:
    """Detect the kind of data at a path; None if the path does not exist. InputError for an unsupported file."""
    path = Path(name)
    if path.is_dir():
        return _kind_of_folder(path)
    if shards.is_shard_name(path.name) and (path.exists() or shards.RANGE.search(name)):
        return SHARDS
    if not path.exists():
        return None
    suffix = path.suffix.lower()
    for suffixes, kind in ((arrays.SUFFIXES, ARRAYS), (listed.SUFFIXES, LIST), ({".bin"}, CIFAR_FILE)):
        if suffix in suffixes:
            return kind
    raise InputError(f"{name!r} is neither a folder nor a supported file.", ACCEPTED)


def _kind_of_folder(path: Path) -> SourceKind:
    try:
        names = [child.name for child in path.iterdir()]
    except OSError:
        return FOLDER  # its loader reports the problem
    if cifar.is_cifar_folder(names):
        return CIFAR
    # The archive that a folder was unpacked from often lies next to its images; then the images are meant.
    if any(map(shards.is_shard_name, names)) and not folder.list_folder_images(str(path)):
        return SHARDS
    return FOLDER
