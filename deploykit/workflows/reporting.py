"""What is known of bundles, as pages and documents; and what is measured later, kept in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from deploykit.bundle import manifest as manifests
from deploykit.bundle import records
from deploykit.bundle.records import Record
from deploykit.bundle.write import Page, put
from deploykit.core.errors import InputError
from deploykit.core.extras import require
from deploykit.core.files import explained, replace_file
from deploykit.core.values import Bench, LayerErrors, Manifest, Measured, Records, SampleAccount, Stages
from deploykit.report.bundle_document import Report, Reported, reported
from deploykit.report.html import page as pages


def keep(folder: Path, record: Record) -> Manifest:
    """File what was measured of a bundle in it, in place of the record of that kind, and make its report anew. Hands
    back the new manifest.

    The bundle is replaced whole at the last moment. InputError where its folder cannot be written beside.
    """
    manifest = manifests.read(folder)
    known = _with(records.read(folder, manifest), record)
    return put(folder, manifest, {records.place(record): records.encode(record)}, pager(folder, known))


def pager(folder: Path, known: Records) -> Page:
    """Gives the report of the bundle at `folder` from its manifest, once that is complete. BackendError where what
    draws it is not installed: asked for before work begins, so that none is lost.
    """
    require("jinja2", "matplotlib")
    name = folder.absolute().name

    def rendered(manifest: Manifest) -> bytes:
        return pages.of_one(reported(name, manifest, known)).encode(errors="replace")

    return rendered


def files(known: Records) -> dict[str, bytes]:
    """The records as files of a bundle, by path."""
    alone = (known.measured, known.stages, known.layers, known.samples, *known.benches)
    return {records.place(record): records.encode(record) for record in alone if record is not None}


def report(folders: Sequence[Path]) -> Report:
    """What is known of each bundle. CheckFailed for a record that is not as it was written."""
    named = _names(folders)
    return Report(tuple(_reported(folder, name) for folder, name in zip(folders, named, strict=True)))


def page(folders: Sequence[Path], absent: Mapping[str, str] | None = None) -> str:
    """One bundle in full, or several compared, as an HTML page that fetches nothing; `absent` are bundles that were
    wanted and are not there, by name, each with the reason.
    """
    return pages.page(report(folders), absent or {})


def save(text: str, destination: Path, force: bool) -> None:
    """Write a report. InputError where something else than a report of ours has that name, unless `force` is given."""
    if not destination.parent.is_dir():
        raise InputError(f"{destination} cannot be written: there is no folder {destination.parent}.", REMEDY)
    if destination.is_dir():
        raise InputError(f"{destination} is a folder.", REMEDY)
    if destination.exists() and not force and not _is_ours(destination):
        raise InputError(f"{destination} exists and is not a report of deploykit's.", f"{REMEDY} --force replaces it.")
    replace_file(destination, text.encode(errors="replace"), REMEDY)


REMEDY: Final = "Choose another file with -o."

MARKS: Final = (
    b'<meta name="generator" content="deploykit report">',
    b"<!-- deploykit report -->",
    b'"kind": "report"',
)
"""What a report of ours holds near its beginning, in each format."""


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            beginning = file.read(1024)
    except OSError as error:
        raise explained(error, path, REMEDY) from error
    return any(mark in beginning for mark in MARKS)


def _reported(folder: Path, name: str) -> Reported:
    manifest = manifests.read(folder)
    return reported(name, manifest, records.read(folder, manifest))


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; where two are alike, as they were typed."""
    names = [folder.absolute().resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def _with(known: Records, record: Record) -> Records:
    match record:
        case Measured():
            return msgspec.structs.replace(known, measured=record)
        case Stages():
            return msgspec.structs.replace(known, stages=record)
        case LayerErrors():
            return msgspec.structs.replace(known, layers=record)
        case SampleAccount():
            return msgspec.structs.replace(known, samples=record)
        case Bench():
            others = (bench for bench in known.benches if records.place(bench) != records.place(record))
            benches = sorted((*others, record), key=records.place)
            return msgspec.structs.replace(known, benches=tuple(benches))
