"""Records in a bundle: one JSON file per measurement, listed in the manifest like every other file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import msgspec

from deploykit.core.errors import CheckFailed
from deploykit.core.files import find_damage
from deploykit.core.values import Bench, LayerErrors, Manifest, Measurement, Records, SampleDifferences, Stages, Value

Record: TypeAlias = Bench | Measurement | Stages | LayerErrors | SampleDifferences

RECORD_PATHS: Final[dict[type[Value], str]] = {
    Measurement: "records/latency.json",
    Stages: "records/stages.json",
    LayerErrors: "records/layers.json",
    SampleDifferences: "records/samples.json",
}
"""Path of each record that exists once per bundle."""

BENCH_PATH: Final = re.compile(r"records/bench-[a-z0-9.-]+\.json")

Kind = TypeVar("Kind", bound=Value)


def record_path(record: Record) -> str:
    """The path of a record in its bundle. The path of a benchmark names runtime and engine, such as
    `records/bench-python-openvino.json`; a later benchmark of the same two replaces it.
    """
    if not isinstance(record, Bench):
        return RECORD_PATHS[type(record)]
    return f"records/bench-{record.runtime}-{_engine_name(record)}.json"


def _engine_name(bench: Bench) -> str:
    """The tag of an engine that is a separate file, else the name of the library that ran the graph."""
    folder, _, tag = Path(bench.file).parent.as_posix().partition("/")
    name = tag if folder == "engines" else bench.library.rpartition(" ")[0] or bench.library
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def encode_record(record: Record) -> bytes:
    """Encode as JSON on one line, since records hold thousands of durations."""
    return msgspec.json.encode(record, order="deterministic") + b"\n"


def read_records(folder: Path, manifest: Manifest) -> Records:
    """Read all records of a bundle.

    CheckFailed if a listed file is missing, damaged, or not the kind of record that its name implies.
    """
    return Records(
        measurement=_read_single(folder, manifest, Measurement),
        stages=_read_single(folder, manifest, Stages),
        layers=_read_single(folder, manifest, LayerErrors),
        samples=_read_single(folder, manifest, SampleDifferences),
        benches=tuple(_read_benches(folder, manifest)),
    )


def _read_single(folder: Path, manifest: Manifest, kind: type[Kind]) -> Kind | None:
    path = RECORD_PATHS[kind]
    return _decode_record(folder, manifest, path, kind) if path in manifest.files else None


def _read_benches(folder: Path, manifest: Manifest) -> Iterator[Bench]:
    for path in sorted(manifest.files):
        if BENCH_PATH.fullmatch(path):
            yield _decode_record(folder, manifest, path, Bench)


def _decode_record(folder: Path, manifest: Manifest, path: str, kind: type[Kind]) -> Kind:
    wrong = find_damage(folder, manifest.files[path])
    if wrong is None:
        try:
            return msgspec.json.decode((folder / path).read_bytes(), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            wrong = f"{path} is not a record that this deploykit can read: {error}"
    raise CheckFailed(f"{folder} is damaged: {wrong}.", "Measure it again, or export it again.")
