"""CIFAR-10 in its binary version (A. Krizhevsky, 2009): records of a class and 32×32 pixels, without pickle.

A record has 3073 bytes: the label, 0…9, and the red, green and blue planes, each row by row. `data_batch_1.bin` to
`data_batch_5.bin` are the split `train`, `test_batch.bin` is `test`; `batches.meta.txt` names the classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError
from deploykit.core.values import Sample

SIDE: Final = 32
RECORD: Final = 1 + 3 * SIDE * SIDE
CIFAR_100_RECORD: Final = RECORD + 1
CLASSES: Final = 10

SPLITS: Final[dict[Literal["calibration", "evaluation"], str]] = {"calibration": "train", "evaluation": "test"}
FILES: Final = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
NAMES: Final = "batches.meta.txt"

REMEDY: Final = "Take the binary version of CIFAR-10 (cifar-10-binary.tar.gz) and unpack it."


class Record(NamedTuple):
    """Position of one image."""

    path: Path
    number: int
    """Index in the file, from 0."""


def is_cifar_folder(names: Iterable[str]) -> bool:
    """Whether these file names are those of a CIFAR folder, including the versions that are refused later."""
    names = set(names)
    return any(re.fullmatch(r"(data_batch_\d+|test_batch)(\.bin)?", name) for name in names) or names >= {
        "train.bin",
        "fine_label_names.txt",
    }


def load_cifar(name: str, split: str) -> LazyDataset:
    """Load the images of a folder's split, or of a single .bin file."""
    path = Path(name)
    batches = _list_batches(path, split)
    if not batches:
        raise InputError(f"the folder {name!r} holds none of {', '.join(_expected_files(split))}.", REMEDY)
    return LazyDataset(
        name=path.resolve().name if path.is_dir() else path.stem,
        split=split,
        real=True,
        classes=_read_classes(batches[0].with_name(NAMES)),
        items=[Record(file, number) for file in batches for number in range(_count_records(file))],
        load_sample=_read_sample,
    )


def list_cifar_files(name: str) -> list[Path]:
    """List the existing files, including the file with the class names."""
    batches = _list_batches(Path(name), "all")
    names = [file.with_name(NAMES) for file in batches[:1]]
    return [*batches, *(path for path in names if path.is_file())]


def _list_batches(path: Path, split: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [path / file for file in _expected_files(split) if (path / file).is_file()]


def _expected_files(split: str) -> tuple[str, ...]:
    return (*FILES["train"], *FILES["test"]) if split == "all" else FILES[split]


def _read_sample(record: Record) -> Sample:
    path, number = record
    try:
        with path.open("rb") as file:
            file.seek(number * RECORD)
            content = np.frombuffer(file.read(RECORD), np.uint8)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.", "Try again, or copy it again.") from error
    if len(content) != RECORD or content[0] >= CLASSES:
        problem = f"has the label {content[0]}, not 0 to 9" if len(content) == RECORD else "is truncated"
        raise InputError(f"image {number} of {str(path)!r} {problem}.", REMEDY)
    image = np.ascontiguousarray(content[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0))
    return Sample(name=f"{path.stem}[{number}]", image=image, label=int(content[0]))


def _count_records(path: Path) -> int:
    size = path.stat().st_size
    if size == 0 or size % RECORD != 0:
        reason = f"is not a multiple of {RECORD}-byte records: it is truncated or not CIFAR-10"
        if size and size % CIFAR_100_RECORD == 0:
            reason = f"is that of CIFAR-100, whose records have two labels and {CIFAR_100_RECORD} bytes, not {RECORD}"
        raise InputError(f"the size of {str(path)!r}, {size} bytes, {reason}.", REMEDY)
    return size // RECORD


def _read_classes(path: Path) -> tuple[str, ...]:
    """Read the class names in label order; none if the file does not exist."""
    if not path.is_file():
        return ()
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != CLASSES:
        raise InputError(f"{str(path)!r} names {len(names)} classes, not {CLASSES}.", "Correct or remove it.")
    return names
