"""CIFAR-10 in its binary version (A. Krizhevsky, 2009): a class and 32×32 pixels per record, and no pickle.

A record has 3073 bytes: the label, 0…9, and the red, green and blue planes, each row by row. `data_batch_1.bin` to
`data_batch_5.bin` are the split `train`, `test_batch.bin` is `test`; `batches.meta.txt` names the classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from deploykit.core.calibration.lazy_dataset import LazySet
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
    """The place of one image."""

    path: Path
    number: int
    """From 0, in its file."""


def recognises(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names was meant as CIFAR; the versions that are refused are among them."""
    names = set(names)
    return any(re.fullmatch(r"(data_batch_\d+|test_batch)(\.bin)?", name) for name in names) or names >= {
        "train.bin",
        "fine_label_names.txt",
    }


def load(name: str, split: str) -> LazySet:
    """The images of a folder's split, or of a single .bin file."""
    path = Path(name)
    found = _batches(path, split)
    if not found:
        raise InputError(f"the folder {name!r} holds none of {', '.join(_expected(split))}.", REMEDY)
    return LazySet(
        name=path.resolve().name if path.is_dir() else path.stem,
        split=split,
        real=True,
        classes=_classes(found[0].with_name(NAMES)),
        items=[Record(file, number) for file in found for number in range(_count(file))],
        make=_sample,
    )


def files(name: str) -> list[Path]:
    """The files that are there, the names of the classes among them."""
    found = _batches(Path(name), "all")
    names = [file.with_name(NAMES) for file in found[:1]]
    return [*found, *(path for path in names if path.is_file())]


def _batches(path: Path, split: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [path / file for file in _expected(split) if (path / file).is_file()]


def _expected(split: str) -> tuple[str, ...]:
    return (*FILES["train"], *FILES["test"]) if split == "all" else FILES[split]


def _sample(record: Record) -> Sample:
    path, number = record
    try:
        with path.open("rb") as file:
            file.seek(number * RECORD)
            content = np.frombuffer(file.read(RECORD), np.uint8)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.", "Try again, or copy it anew.") from error
    if len(content) != RECORD or content[0] >= CLASSES:
        found = f"the label {content[0]}, and those of CIFAR-10 end at 9" if len(content) == RECORD else "no end"
        raise InputError(f"image {number} of {str(path)!r} has {found}.", REMEDY)
    image = np.ascontiguousarray(content[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0))
    return Sample(name=f"{path.stem}[{number}]", image=image, label=int(content[0]))


def _count(path: Path) -> int:
    size = path.stat().st_size
    if size == 0 or size % RECORD != 0:
        reason = f"is not a whole number of {RECORD}-byte records; it was cut short, or is no CIFAR-10"
        if size and size % CIFAR_100_RECORD == 0:
            reason = f"is that of CIFAR-100, whose records have two labels and {CIFAR_100_RECORD} bytes, not {RECORD}"
        raise InputError(f"the size of {str(path)!r}, {size} bytes, {reason}.", REMEDY)
    return size // RECORD


def _classes(path: Path) -> tuple[str, ...]:
    """Names by label; none where the file does not lie beside the images."""
    if not path.is_file():
        return ()
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != CLASSES:
        raise InputError(f"{str(path)!r} names {len(names)} classes, not {CLASSES}.", "Correct it or take it away.")
    return names
