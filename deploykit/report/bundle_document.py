"""Contents of a report: bundles with their records, and a row for every engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from deploykit.core.values import (
    Accuracy,
    Engine,
    Fp32Comparison,
    Latency,
    Manifest,
    OutputParity,
    Parity,
    Precision,
    Records,
    SecondaryEngine,
    Stages,
    Value,
)
from deploykit.report.document import DOCUMENT_VERSION
from deploykit.report.verdict import format_headline, list_qualifiers


class ReportedBundle(Value, frozen=True):
    """One bundle: its manifest, the records added later, and every failed check of either."""

    name: str
    """Name of its folder."""
    manifest: Manifest
    records: Records
    failures: tuple[str, ...]
    """As sentences; empty if the bundle passed."""


class Report(Value, frozen=True):
    """Bundles in the order in which they were named."""

    bundles: tuple[ReportedBundle, ...]


class ReportDocument(Value, frozen=True):
    """The document that `deploykit report --format json` prints."""

    deploykit: Literal[1]
    kind: Literal["report"]
    content: Report


class EngineRow(Value, frozen=True):
    """One engine of one bundle, as a comparison shows it; None: not measured or not applicable."""

    number: int
    """Counted from 1 over all rows."""
    bundle: str
    model: str
    precision: Precision
    backend: str
    """Name and version; with the machine if another one than the exporting machine ran it."""
    passed: bool | None
    """None: the engine was not run."""
    snr_db: float | None
    """Of the worst output; None also if all outputs are identical, see `identical`."""
    identical: bool
    top1_agreement: float | None
    accuracy: Accuracy | None
    latency: Latency | None
    fp32: Fp32Comparison | None
    """FP32 on the same backend, timed in alternation with the engine."""
    bytes: int
    """Size of the engine's file, with the external data of a graph."""


def describe_bundle(name: str, manifest: Manifest, records: Records) -> ReportedBundle:
    """Collect a bundle's failures from all of its checks."""
    at_export = manifest.failures
    later = (
        failure
        for failure in _stage_failures(records.stages)
        if not any(failure.endswith(known) for known in at_export)
    )
    return ReportedBundle(name, manifest, records, (*at_export, *later))


def bundle_headline(bundle: ReportedBundle) -> str:
    """`FAILED`, or `PASSED` with what a reader must know beside it."""
    manifest = bundle.manifest
    qualifiers = list_qualifiers(manifest.parity, manifest.precision, manifest.receipt)
    return format_headline(not bundle.failures, qualifiers)


def _stage_failures(stages: Stages | None) -> tuple[str, ...]:
    if stages is None:
        return ()
    own = (f"stage {stage.stage}: {failure}" for stage in stages.stages for failure in stage.failures)
    return (*own, *stages.combined_failures)


def engine_rows(report: Report) -> tuple[EngineRow, ...]:
    """The primary engine of each bundle, then its additional engines."""
    rows: list[EngineRow] = []
    for bundle in report.bundles:
        manifest = bundle.manifest
        first = _engine_row(
            len(rows) + 1, bundle, manifest.engine, manifest.parity, not bundle.failures, manifest.latency
        )
        first = msgspec.structs.replace(first, fp32=manifest.fp32_latency)
        rows.append(first)
        rows += [
            _extra_engine_row(number, bundle, other)
            for number, other in enumerate(manifest.extra_engines, len(rows) + 1)
        ]
    return tuple(rows)


def _extra_engine_row(number: int, bundle: ReportedBundle, other: SecondaryEngine) -> EngineRow:
    passed = None if other.parity is None else not other.failures
    row = _engine_row(number, bundle, other.engine, other.parity, passed, other.latency)
    row = msgspec.structs.replace(row, fp32=other.fp32_latency)
    at, home = other.provenance, bundle.manifest.provenance
    if at is None or (at.host, at.processor) == (home.host, home.processor):
        return row
    others = (home, *(engine.provenance or home for engine in bundle.manifest.extra_engines))
    alike = any(other.host == at.host and other.processor != at.processor for other in others)
    machine = f"{at.host} ({at.processor})" if alike else at.host
    return msgspec.structs.replace(row, backend=f"{row.backend} on {machine}")


def _engine_row(
    number: int,
    bundle: ReportedBundle,
    engine: Engine,
    parity: Parity | None,
    passed: bool | None,
    latency: Latency | None,
) -> EngineRow:
    outputs = parity.outputs if parity is not None else ()
    agreements = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    return EngineRow(
        number=number,
        bundle=bundle.name,
        model=bundle.manifest.model.name,
        precision=bundle.manifest.precision,
        backend=f"{engine.backend} {engine.version}",
        passed=passed,
        snr_db=None if parity is None else parity.worst_snr_db,
        identical=bool(outputs) and parity is not None and parity.worst_snr_db is None,
        top1_agreement=min(agreements, default=None),
        accuracy=parity.accuracy if parity is not None else None,
        latency=latency,
        fp32=None,
        bytes=engine_bytes(bundle.manifest, engine),
    )


def worst_snr(outputs: Iterable[OutputParity]) -> float | None:
    """SNR of the worst output in dB; None if no output differs or none could be measured."""
    return min((output.snr_db for output in outputs if output.snr_db is not None), default=None)


def engine_bytes(manifest: Manifest, engine: Engine) -> int:
    """Bytes that an application ships to run an engine: its file and its external weights."""
    weights = manifest.files.get(f"{engine.file.path}.data")
    return engine.file.bytes + (weights.bytes if weights is not None else 0)


def report_schema() -> str:
    """The JSON Schema of the document, the content of `schema.json`."""
    assert DOCUMENT_VERSION == 1, "the type above names the version"
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(ReportDocument)), indent=2).decode() + "\n"
