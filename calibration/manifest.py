"""What a named set is: where its images come from, under which licence, and how they are split."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from deploykit.core.values import Value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class SourceFile(Value, frozen=True):
    """One image file inside the source package, and the split that all its pixels belong to."""

    path: str
    """Relative to the package's folder."""
    sha256: str
    split: str
    title: str
    licence: str


class Manifest(Value, frozen=True):
    """A `.toml` beside the loaders."""

    name: str
    title: str
    licence: str
    loader: str
    """The kind of source: a key of `calibration.LOADERS`."""
    real: bool
    splits: Mapping[Literal["calibration", "evaluation"], str]
    """What a stage needs data for -> the split to take. Splits are disjoint; `all` is their union."""
    package: str | None = None
    """The distribution that carries the images, and the name it is imported by; None: images are computed."""
    module: str | None = None
    classes: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()


def read_manifest(file_name: str) -> Manifest:
    """The manifest of that file name, out of this package."""
    text = Path(__file__).with_name(file_name).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Manifest)
