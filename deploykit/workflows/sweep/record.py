"""What became of each cell, kept in the destination: whoever runs the sweep again finds what is finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from deploykit.bundle import manifest as manifests
from deploykit.core.errors import DeploykitError, InputError
from deploykit.core.files import damage, replace_file
from deploykit.core.values import Value
from deploykit.core.values.sweeps import CellResult

FILE: Final = "sweep.json"

REMEDY: Final = "Move it away, and the bundles beside it that are to be made again."


class Record(Value, frozen=True):
    """What the file holds."""

    deploykit: Literal[1]
    kind: Literal["sweep record"]
    content: tuple[CellResult, ...]


def read(folder: Path) -> dict[str, CellResult]:
    """The last result of every cell that was ever made there, by its name. InputError for a file that is not ours."""
    try:
        text = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return {result.cell.name: result for result in msgspec.json.decode(text, type=Record).content}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder / FILE} is no record of a sweep that this deploykit reads: {error}.", REMEDY
        ) from error


def write(folder: Path, results: Mapping[str, CellResult]) -> None:
    """All results, by name; whole, or as it was before."""
    whole = Record(1, "sweep record", tuple(results.values()))
    replace_file(
        folder / FILE, msgspec.json.format(msgspec.json.encode(whole), indent=1), "Choose another folder with -o."
    )


def stands(folder: Path, result: CellResult, key: str) -> bool:
    """Whether a cell of that key is finished, and its bundle still what it was, file by file."""
    if not result.finished or result.key != key:
        return False
    bundle = folder / result.cell.name
    try:
        manifest = manifests.read(bundle)
    except DeploykitError:
        return False
    damaged = any(damage(bundle, file) is not None for file in manifest.files.values())
    return manifest.key == result.bundle_key and not damaged
