"""Text file that lists images, one per line, with or without classes.

    # lines that begin with a # are ignored
    cats/1.jpg	0
    dogs/a photo.jpg	1

A path is relative to the list's folder. The class, an integer ≥ 0, may follow after the last tab, comma or blank; if
the last word is not an integer, it belongs to the path, so that names may contain blanks and commas.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.calibration.image import decode_image
from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError
from deploykit.core.files import escape_undecodable
from deploykit.core.values import Sample

SUFFIXES: Final = frozenset({".txt", ".csv", ".lst"})
LABELLED: Final = re.compile(r"(?P<path>.*[^\s,])\s*[\t, ]\s*(?P<label>\d+)")
MAX_LISTED: Final = 3
"""Missing files listed in an error message."""


class Line(NamedTuple):
    """An entry of the list."""

    number: int
    """Line number, from 1."""
    path: str
    label: int | None


def load_listed(name: str, split: str) -> LazyDataset:
    path = Path(name)
    lines = _read_lines(path)
    _check_labels(path, lines)
    _check_files(path, lines)
    return LazyDataset(
        name=escape_undecodable(path.stem),
        split=split,
        real=True,
        classes=(),
        items=lines,
        load_sample=partial(_decode_sample, path.parent),
    )


def list_listed_files(name: str) -> list[Path]:
    """The paths of the images in the list's order, whether they exist or not."""
    path = Path(name)
    return [path.parent / line.path for line in _read_lines(path)]


def _decode_sample(folder: Path, line: Line) -> Sample:
    return Sample(name=line.path, image=decode_image(folder / line.path), label=line.label)


def _read_lines(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {str(path)!r} cannot be read: {error}.", "Give a text file in UTF-8.") from error
    numbered = enumerate(map(str.strip, text.split("\n")), start=1)
    lines = [_parse_line(number, words) for number, words in numbered if words and not words.startswith("#")]
    if not lines:
        raise InputError(f"the list {str(path)!r} is empty.", "Write the path of one image on each line.")
    return lines


def _parse_line(number: int, words: str) -> Line:
    match = LABELLED.fullmatch(words)
    return Line(number, words, None) if match is None else Line(number, match["path"], int(match["label"]))


def _check_labels(path: Path, lines: list[Line]) -> None:
    unlabelled = [line for line in lines if line.label is None]
    if 0 < len(unlabelled) < len(lines):
        raise InputError(
            f"line {unlabelled[0].number} of {str(path)!r} has no class, but other lines do: {unlabelled[0].path!r}.",
            "Write an integer ≥ 0 after every path, or after none.",
        )


def _check_files(path: Path, lines: list[Line]) -> None:
    missing = [line for line in lines if not (path.parent / line.path).is_file()]
    if missing:
        listed = ", ".join(f"line {line.number}: {line.path!r}" for line in missing[:MAX_LISTED])
        more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise InputError(
            f"{str(path)!r} lists files that do not exist: {listed}{more}.",
            f"Paths are relative to {str(path.parent)!r}, without quotes; a class is an integer ≥ 0.",
        )
