"""Manifest of a named set: source, licence and splits of its images."""

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
    """One image file in the source package, and the split that all its pixels belong to."""

    path: str
    """Relative to the package's folder."""
    sha256: str
    split: str
    title: str
    licence: str


class SetManifest(Value, frozen=True):
    """Content of a set's `.toml` file."""

    name: str
    title: str
    licence: str
    loader: str
    """The kind of source: a key of `calibration.LOADERS`."""
    real: bool
    splits: Mapping[Literal["calibration", "evaluation"], str]
    """Purpose -> split. Splits are disjoint; `all` is their union."""
    package: str | None = None
    """The distribution that contains the images (`module` is its import name); None: images are computed."""
    module: str | None = None
    classes: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()


def read_manifest(file_name: str) -> SetManifest:
    """Read a manifest from this folder."""
    text = Path(__file__).with_name(file_name).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), SetManifest)
