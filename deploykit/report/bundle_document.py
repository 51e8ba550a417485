"""What a report tells of: bundles with all that is known of each, and a row for every engine in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from deploykit.core.values import (
    Accuracy,
    Beside,
    Engine,
    Latency,
    Manifest,
    OutputParity,
    Parity,
    Precision,
    Records,
    Stages,
    Value,
)
from deploykit.report.depth import called
from deploykit.report.document import DOCUMENT_VERSION


class Reported(Value, frozen=True):
    """One bundle: its manifest, what was recorded of it since, and every check that failed in either."""

    name: str
    """Of its folder."""
    manifest: Manifest
    records: Records
    failures: tuple[str, ...]
    """As sentences; none: it is good."""


class Report(Value, frozen=True):
    """Bundles in the order in which they were named."""

    bundles: tuple[Reported, ...]


class ReportDocument(Value, frozen=True):
    """What `deploykit report --format json` prints."""

    deploykit: Literal[1]
    kind: Literal["report"]
    content: Report


class Row(Value, frozen=True):
    """One engine of one bundle, as a comparison shows it; None: not measured, or there is no such figure."""

    number: int
    """Counted from 1 over all rows."""
    bundle: str
    model: str
    precision: Precision
    backend: str
    """Name and version, and the machine where it is not the one that exported the bundle."""
    passed: bool | None
    """None: this engine was never run."""
    snr_db: float | None
    """The worst output's; None too where all outputs are identical, which `identical` says."""
    identical: bool
    top1_agreement: float | None
    accuracy: Accuracy | None
    latency: Latency | None
    bytes: int
    """Of the engine's file, with the data beside a graph."""


def reported(name: str, manifest: Manifest, records: Records) -> Reported:
    """A bundle, its failures gathered from every check there is."""
    said = manifest.failures
    later = (failure for failure in _of_stages(records.stages) if not any(failure.endswith(each) for each in said))
    return Reported(name, manifest, records, (*said, *later))


def _of_stages(found: Stages | None) -> tuple[str, ...]:
    if found is None:
        return ()
    own = (f"stage {called(stage)}: {failure}" for stage in found.stages for failure in stage.failures)
    return (*own, *found.together)


def rows(report: Report) -> tuple[Row, ...]:
    """The engine that each bundle was judged by, then those beside it."""
    found: list[Row] = []
    for bundle in report.bundles:
        manifest = bundle.manifest
        first = _row(len(found) + 1, bundle, manifest.engine, manifest.parity, not bundle.failures, manifest.latency)
        found.append(first)
        found += [_beside(number, bundle, other) for number, other in enumerate(manifest.beside, len(found) + 1)]
    return tuple(found)


def _beside(number: int, bundle: Reported, other: Beside) -> Row:
    passed = None if other.parity is None else not other.failures
    row = _row(number, bundle, other.engine, other.parity, passed, other.latency)
    at, home = other.provenance, bundle.manifest.provenance
    if at is None or (at.host, at.processor) == (home.host, home.processor):
        return row
    others = (home, *(each.provenance or home for each in bundle.manifest.beside))
    alike = any(each.host == at.host and each.processor != at.processor for each in others)
    machine = f"{at.host} ({at.processor})" if alike else at.host
    return msgspec.structs.replace(row, backend=f"{row.backend} on {machine}")


def _row(
    number: int, bundle: Reported, engine: Engine, parity: Parity | None, passed: bool | None, latency: Latency | None
) -> Row:
    outputs = parity.outputs if parity is not None else ()
    agreements = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    return Row(
        number=number,
        bundle=bundle.name,
        model=bundle.manifest.model.name,
        precision=bundle.manifest.precision,
        backend=f"{engine.backend} {engine.version}",
        passed=passed,
        snr_db=worst_snr(outputs),
        identical=bool(outputs) and all(output.snr_db is None for output in outputs),
        top1_agreement=min(agreements, default=None),
        accuracy=parity.accuracy if parity is not None else None,
        latency=latency,
        bytes=engine_bytes(bundle.manifest, engine),
    )


def worst_snr(outputs: Iterable[OutputParity]) -> float | None:
    """In decibels, of the output that is furthest off; None where none differs, or none could be measured."""
    return min((output.snr_db for output in outputs if output.snr_db is not None), default=None)


def engine_bytes(manifest: Manifest, engine: Engine) -> int:
    """What an application must ship to run an engine: its file, and the weights beside it where they lie outside."""
    weights = manifest.files.get(f"{engine.file.path}.data")
    return engine.file.bytes + (weights.bytes if weights is not None else 0)


def schema() -> str:
    """The JSON Schema of the document, as `schema.json` holds it."""
    assert DOCUMENT_VERSION == 1, "the type above names the version"
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(ReportDocument)), indent=2).decode() + "\n"
