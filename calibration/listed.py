"""A text file that lists images, one a line, with or without their classes.

    # what begins with a # is left aside
    cats/1.jpg	0
    dogs/a photo.jpg	1

A path is relative to the list's folder. Behind the last tab, comma or blank may stand the class, an integer from 0;
what is no integer there belongs to the path, so that names may hold blanks and commas.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.calibration.image import decode
from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.errors import InputError
from deploykit.core.values import Sample

SUFFIXES: Final = frozenset({".txt", ".csv", ".lst"})
LABELLED: Final = re.compile(r"(?P<path>.*[^\s,])\s*[\t, ]\s*(?P<label>\d+)")
SHOWN: Final = 3
"""Missing files that a refusal names."""


class Line(NamedTuple):
    """One image of the list."""

    number: int
    """From 1, as editors count."""
    path: str
    label: int | None


def load(name: str, split: str) -> LazySet:
    path = Path(name)
    lines = _lines(path)
    _check_labels(path, lines)
    _check_files(path, lines)
    return LazySet(
        name=path.stem,
        split=split,
        real=True,
        classes=(),
        items=lines,
        make=partial(_sample, path.parent),
    )


def files(name: str) -> list[Path]:
    """The images of the list, in its order, whether they are there or not."""
    path = Path(name)
    return [path.parent / line.path for line in _lines(path)]


def _sample(folder: Path, line: Line) -> Sample:
    return Sample(name=line.path, image=decode(folder / line.path), label=line.label)


def _lines(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before the first line
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {str(path)!r} cannot be read: {error}.", "Give a text file in UTF-8.") from error
    numbered = enumerate(map(str.strip, text.split("\n")), start=1)
    lines = [_line(number, words) for number, words in numbered if words and not words.startswith("#")]
    if not lines:
        raise InputError(f"the list {str(path)!r} is empty.", "Write the path of one image on each line.")
    return lines


def _line(number: int, words: str) -> Line:
    found = LABELLED.fullmatch(words)
    return Line(number, words, None) if found is None else Line(number, found["path"], int(found["label"]))


def _check_labels(path: Path, lines: list[Line]) -> None:
    unlabelled = [line for line in lines if line.label is None]
    if 0 < len(unlabelled) < len(lines):
        raise InputError(
            f"line {unlabelled[0].number} of {str(path)!r} has no class, and others have: {unlabelled[0].path!r}.",
            "Write an integer from 0 behind every path, or none.",
        )


def _check_files(path: Path, lines: list[Line]) -> None:
    missing = [line for line in lines if not (path.parent / line.path).is_file()]
    if missing:
        named = ", ".join(f"line {line.number}: {line.path!r}" for line in missing[:SHOWN])
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise InputError(
            f"{str(path)!r} lists files that are not there: {named}{more}.",
            f"Paths are relative to {str(path.parent)!r} and stand without quotes; a class is an integer from 0.",
        )
