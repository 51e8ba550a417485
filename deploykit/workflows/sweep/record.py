"""Record of all cells in the destination, so that a repeated sweep finds the finished ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from deploykit.bundle import manifest as manifests
from deploykit.core.errors import DeploykitError, InputError
from deploykit.core.files import find_damage, replace_file
from deploykit.core.values import Value
from deploykit.core.values.sweeps import CellResult

FILE: Final = "sweep.json"

REMEDY: Final = "Move it away, together with the bundles that are to be exported again."


class SweepRecord(Value, frozen=True):
    """Content of sweep.json."""

    deploykit: Literal[1]
    kind: Literal["sweep record"]
    content: tuple[CellResult, ...]


def read_results(folder: Path) -> dict[str, CellResult]:
    """Read the last result of every cell in the folder, by name. InputError for an invalid or foreign file."""
    try:
        text = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return {result.cell.name: result for result in msgspec.json.decode(text, type=SweepRecord).content}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder / FILE} is not a valid sweep record of this version of deploykit: {error}.", REMEDY
        ) from error


def write_results(folder: Path, results: Mapping[str, CellResult]) -> None:
    """Replace the record atomically with all results."""
    content = SweepRecord(1, "sweep record", tuple(results.values()))
    replace_file(
        folder / FILE, msgspec.json.format(msgspec.json.encode(content), indent=1), "Choose another folder with -o."
    )


def is_up_to_date(folder: Path, result: CellResult, key: str) -> bool:
    """Whether a cell with this key is finished and all files of its bundle are unchanged."""
    if not result.finished or result.key != key:
        return False
    bundle = folder / result.cell.name
    try:
        manifest = manifests.read_manifest(bundle)
    except DeploykitError:
        return False
    damaged = any(find_damage(bundle, file) is not None for file in manifest.files.values())
    return manifest.key == result.bundle_key and not damaged
