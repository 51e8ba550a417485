"""Records in a bundle: one file for each thing that was measured of it, listed in its manifest like every other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import msgspec

from deploykit.core.errors import CheckFailed
from deploykit.core.files import damage
from deploykit.core.values import Bench, LayerErrors, Manifest, Measured, Records, SampleAccount, Stages, Value

Record: TypeAlias = Bench | Measured | Stages | LayerErrors | SampleAccount

PLACES: Final[dict[type[Value], str]] = {
    Measured: "records/measured.json",
    Stages: "records/stages.json",
    LayerErrors: "records/layers.json",
    SampleAccount: "records/samples.json",
}
"""Where the only record of its kind lies."""

BENCH: Final = re.compile(r"records/bench-[a-z0-9.-]+\.json")

Kind = TypeVar("Kind", bound=Value)


def place(record: Record) -> str:
    """The path of a record within its bundle. That of a benchmark names runtime and engine, such as
    `records/bench-python-openvino.json`: the next one of the same two takes its place.
    """
    if not isinstance(record, Bench):
        return PLACES[type(record)]
    return f"records/bench-{record.runtime}-{_engine(record)}.json"


def _engine(bench: Bench) -> str:
    """The tag of an engine that is a file of its own, else the name of the library that ran the graph."""
    folder, _, tag = Path(bench.file).parent.as_posix().partition("/")
    name = tag if folder == "engines" else bench.library.rpartition(" ")[0] or bench.library
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def encode(record: Record) -> bytes:
    """JSON on one line: durations come by the thousand."""
    return msgspec.json.encode(record, order="deterministic") + b"\n"


def read(folder: Path, manifest: Manifest) -> Records:
    """What a bundle holds of them; none in one that was made before there were any.

    CheckFailed where a file that the manifest lists is missing, damaged, or not what its name says.
    """
    return Records(
        measured=_only(folder, manifest, Measured),
        stages=_only(folder, manifest, Stages),
        layers=_only(folder, manifest, LayerErrors),
        samples=_only(folder, manifest, SampleAccount),
        benches=tuple(_benches(folder, manifest)),
    )


def _only(folder: Path, manifest: Manifest, kind: type[Kind]) -> Kind | None:
    path = PLACES[kind]
    return _decoded(folder, manifest, path, kind) if path in manifest.files else None


def _benches(folder: Path, manifest: Manifest) -> Iterator[Bench]:
    for path in sorted(manifest.files):
        if BENCH.fullmatch(path):
            yield _decoded(folder, manifest, path, Bench)


def _decoded(folder: Path, manifest: Manifest, path: str, kind: type[Kind]) -> Kind:
    wrong = damage(folder, manifest.files[path])
    if wrong is None:
        try:
            return msgspec.json.decode((folder / path).read_bytes(), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            wrong = f"{path} is no record that this deploykit reads: {error}"
    raise CheckFailed(f"{folder} is not as it was written: {wrong}.", "Measure it again, or export it again.")
