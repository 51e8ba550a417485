"""Reports of bundles, and records of later measurements that are added to a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from deploykit.bundle import manifest as manifests
from deploykit.bundle import records
from deploykit.bundle.records import Record
from deploykit.bundle.write import ReportRenderer, update_bundle
from deploykit.core.errors import InputError
from deploykit.core.extras import require_modules
from deploykit.core.files import explain_os_error, replace_file
from deploykit.core.values import Bench, LayerErrors, Manifest, Measurement, Records, SampleDifferences, Stages
from deploykit.report.bundle_document import Report, ReportedBundle, describe_bundle
from deploykit.report.html import page as pages


def save_record(folder: Path, record: Record) -> Manifest:
    """Save a measurement in its bundle, in place of the record of the same kind, and render its report again. Returns
    the new manifest.

    The bundle is replaced as a whole at the end. InputError where the folder that holds it is not writable.
    """
    manifest = manifests.read_manifest(folder)
    records_of_bundle = _replace_record(records.read_records(folder, manifest), record)
    renderer = report_renderer(folder, records_of_bundle)
    return update_bundle(folder, manifest, {records.record_path(record): records.encode_record(record)}, renderer)


def report_renderer(folder: Path, bundle_records: Records) -> ReportRenderer:
    """A function that renders the report of the bundle at `folder` from its complete manifest. BackendError where a
    library that renders it is not installed: call it before long work begins, so that none is lost.
    """
    require_modules("jinja2", "matplotlib")
    name = folder.absolute().name

    def render(manifest: Manifest) -> bytes:
        return pages.render_bundle(describe_bundle(name, manifest, bundle_records)).encode(errors="replace")

    return render


def encode_records(bundle_records: Records) -> dict[str, bytes]:
    """The records as files of a bundle, by path."""
    single = (bundle_records.measurement, bundle_records.stages, bundle_records.layers, bundle_records.samples)
    present = (record for record in (*single, *bundle_records.benches) if record is not None)
    return {records.record_path(record): records.encode_record(record) for record in present}


def collect_report(folders: Sequence[Path]) -> Report:
    """The report's content: manifest and records of each bundle. CheckFailed where a record was changed."""
    names = _name_bundles(folders)
    return Report(tuple(_describe_bundle(folder, name) for folder, name in zip(folders, names, strict=True)))


def render_page(folders: Sequence[Path], absent: Mapping[str, str] | None = None) -> str:
    """One bundle in full, or several compared, as a self-contained HTML page. `absent` lists bundles that are missing,
    by name, each with the reason.
    """
    return pages.render_page(collect_report(folders), absent or {})


def save_report(text: str, destination: Path, force: bool) -> None:
    """Write a report. InputError where a file exists that is not a report of deploykit's, unless `force` is given."""
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
"""Text near the beginning by which a report of deploykit's is recognised, for each format."""


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            beginning = file.read(1024)
    except OSError as error:
        raise explain_os_error(error, path, REMEDY) from error
    return any(mark in beginning for mark in MARKS)


def _describe_bundle(folder: Path, name: str) -> ReportedBundle:
    manifest = manifests.read_manifest(folder)
    return describe_bundle(name, manifest, records.read_records(folder, manifest))


def _name_bundles(folders: Sequence[Path]) -> list[str]:
    """The names of the folders; where two are equal, the paths as they were given."""
    names = [folder.absolute().resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def _replace_record(bundle_records: Records, record: Record) -> Records:
    match record:
        case Measurement():
            return msgspec.structs.replace(bundle_records, measurement=record)
        case Stages():
            return msgspec.structs.replace(bundle_records, stages=record)
        case LayerErrors():
            return msgspec.structs.replace(bundle_records, layers=record)
        case SampleDifferences():
            return msgspec.structs.replace(bundle_records, samples=record)
        case Bench():
            path = records.record_path(record)
            others = (bench for bench in bundle_records.benches if records.record_path(bench) != path)
            benches = sorted((*others, record), key=records.record_path)
            return msgspec.structs.replace(bundle_records, benches=tuple(benches))
