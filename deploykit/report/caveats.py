"""Caveats of a bundle: everything that its figures do not cover."""

from __future__ import annotations

from collections.abc import Iterator

from deploykit.core.values import CLASSIFIER_HEADS
from deploykit.report.bundle_document import ReportedBundle
from deploykit.report.depth import list_not_run
from deploykit.report.extra_engines import describe_not_run
from deploykit.report.formatting import fill_bundle_path, placeholder_path
from deploykit.report.speedup import list_slowdowns


def list_caveats(bundle: ReportedBundle) -> tuple[str, ...]:
    """Every caveat once, in the order of the report's sections; commands name the bundle as PATH/TO/NAME."""
    path = placeholder_path(bundle.name)
    return tuple(dict.fromkeys(fill_bundle_path(caveat, path) for caveat in _collect_caveats(bundle)))


def _collect_caveats(bundle: ReportedBundle) -> Iterator[str]:
    manifest, records = bundle.manifest, bundle.records
    yield from manifest.parity.caveats
    yield from manifest.engine.caveats
    yield from list_slowdowns(manifest)
    if manifest.parity.accuracy is None and manifest.model.head in CLASSIFIER_HEADS:
        yield f"accuracy was not evaluated: the samples of {manifest.parity.data.name} have no labels for these classes"
    if records.stages is not None:
        yield from list_not_run(records.stages)
        yield from records.stages.caveats
    if records.layers is not None:
        yield from records.layers.caveats
    for other in manifest.extra_engines:
        name = f"{other.engine.backend} {other.engine.version}"
        if other.not_run_reason is not None:
            yield f"{name}: {describe_not_run(other.engine, other.not_run_reason)}"
        elif other.parity is not None:
            known = set(manifest.parity.caveats)
            yield from (f"{name}: {caveat}" for caveat in other.parity.caveats if caveat not in known)
    for bench in records.benches:
        yield from bench.caveats
