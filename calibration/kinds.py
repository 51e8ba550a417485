"""Which kind of source a path leads to, by its name and, of a folder, by the names in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from deploykit.core.calibration import arrays, cifar, folder, listed, shards
from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.errors import InputError

Purpose = Literal["calibration", "evaluation"]

ALL: Final[Mapping[Purpose, str]] = {"calibration": "all", "evaluation": "all"}
"""Most sources know of no splits, and serve every purpose with all they have."""

ACCEPTED: Final = (
    "Give a folder of images, a .npy or .npz of arrays, the .bin files of CIFAR-10, a .tar of WebDataset, "
    "or a list of images in a .txt, .csv or .lst."
)


class Kind(NamedTuple):
    """One kind of source."""

    load: Callable[[str, str], LazySet]
    """Path and split -> the set."""
    files: Callable[[str], Sequence[Path]]
    """Path -> every file whose content the set depends on."""
    splits: Mapping[Purpose, str] = ALL


def _itself(name: str) -> list[Path]:
    return [Path(name)]


def _list_and_images(name: str) -> list[Path]:
    return [Path(name), *listed.files(name)]


FOLDER: Final = Kind(folder.load, folder.files)
ARRAYS: Final = Kind(arrays.load, _itself)
LIST: Final = Kind(listed.load, _list_and_images)
SHARDS: Final = Kind(shards.load, shards.files)
CIFAR: Final = Kind(cifar.load, cifar.files, cifar.SPLITS)
CIFAR_FILE: Final = Kind(cifar.load, cifar.files)


def kind_of(name: str) -> Kind | None:
    """The kind of what lies at that path, or None where nothing does. InputError where it is nothing that we read."""
    path = Path(name)
    if path.is_dir():
        return _kind_of_folder(path)
    if shards.recognises(path.name) and (path.exists() or shards.RANGE.search(name)):
        return SHARDS
    if not path.exists():
        return None
    suffix = path.suffix.lower()
    for suffixes, kind in ((arrays.SUFFIXES, ARRAYS), (listed.SUFFIXES, LIST), ({".bin"}, CIFAR_FILE)):
        if suffix in suffixes:
            return kind
    raise InputError(f"{name!r} is not a folder, and no file of a kind that is known.", ACCEPTED)


def _kind_of_folder(path: Path) -> Kind:
    try:
        names = [child.name for child in path.iterdir()]
    except OSError:
        return FOLDER  # whose loader says what is wrong
    if cifar.recognises(names):
        return CIFAR
    # The archive that a folder was unpacked from often lies beside its images; then these are meant.
    if any(map(shards.recognises, names)) and not folder.files(str(path)):
        return SHARDS
    return FOLDER
