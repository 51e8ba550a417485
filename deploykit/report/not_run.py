"""What no figure of a bundle covers, gathered from wherever it was said."""

from __future__ import annotations

from collections.abc import Iterator

from deploykit.core.values import CLASSES
from deploykit.report.bundle_document import Reported
from deploykit.report.depth import unseen
from deploykit.report.extra_engines import unchecked as not_run


def statements(bundle: Reported) -> tuple[str, ...]:
    """Every statement once, in the order of the report's sections."""
    return tuple(dict.fromkeys(_all(bundle)))


def _all(bundle: Reported) -> Iterator[str]:
    manifest, records = bundle.manifest, bundle.records
    yield from manifest.parity.statements
    yield from manifest.engine.statements
    if manifest.parity.accuracy is None and manifest.model.head in CLASSES:
        yield f"accuracy was not measured: the samples of {manifest.parity.data.name} carry no labels of these classes"
    if records.stages is not None:
        yield from unseen(records.stages)
        yield from records.stages.statements
    if records.layers is not None:
        yield from records.layers.statements
    for other in manifest.beside:
        name = f"{other.engine.backend} {other.engine.version}"
        if other.unchecked is not None:
            yield f"{name}: {not_run(other.engine, other.unchecked)}"
        elif other.parity is not None:
            known = set(manifest.parity.statements)
            yield from (f"{name}: {statement}" for statement in other.parity.statements if statement not in known)
    for bench in records.benches:
        yield from bench.statements
