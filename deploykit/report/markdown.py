"""A report as Markdown: the verdict, the figures, and what they do not cover."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from deploykit.core.values import Bench, LayerErrors, SampleAccount, Stages
from deploykit.report.bench import ENOUGH_FOR_P999
from deploykit.report.bounds import bounds
from deploykit.report.bundle_document import Report, Reported, Row, rows, worst_snr
from deploykit.report.command import command
from deploykit.report.depth import called
from deploykit.report.key_figures import key_figures
from deploykit.report.not_run import statements
from deploykit.report.terminal import size
from deploykit.report.words import ABSENT, decibels, milliseconds, number, percent, power, precise, samples

MARK = "<!-- deploykit report -->"

LAYERS = 10
"""Of layers and samples, so many are listed; the page and the JSON have all."""


def page(report: Report) -> str:
    """One bundle in full where it is the only one, else a table of all engines before each bundle's verdict."""
    parts = [MARK]
    if len(report.bundles) == 1:
        parts += _of_one(report.bundles[0])
    else:
        parts += [f"# {len(report.bundles)} bundles compared", _comparison(rows(report))]
        for bundle in report.bundles:
            parts += [f"## {_plain(bundle.name)}", *_verdict(bundle)]
            parts += _unchecked(bundle)
    return "\n\n".join(parts) + "\n"


def _of_one(bundle: Reported) -> Iterator[str]:
    manifest, records = bundle.manifest, bundle.records
    yield f"# {_plain(manifest.model.name)} in {precise(manifest.precision)}"
    yield from _verdict(bundle)
    yield table(("figure", "", ""), [(figure.name, figure.figure, figure.beside) for figure in key_figures(bundle)])
    yield "## The verdict's bounds"
    held = {True: "holds", False: "does not hold", None: "not judged"}
    yield table(
        ("output", "figure", "measured", "bound", ""),
        [(each.output, each.figure, each.measured, each.bound, held[each.holds]) for each in bounds(manifest.parity)],
    )
    if records.stages is not None:
        yield from _stages(records.stages)
    if records.layers is not None:
        yield from _layers(records.layers)
    for bench in records.benches:
        yield from _bench(bench)
    if records.samples is not None:
        yield from _samples(records.samples)
    if manifest.beside:
        yield "## Engines"
        yield _comparison(rows(Report((bundle,))))
    if (receipt := manifest.calibration) is not None:
        yield "## Calibration"
        yield (
            f"On {_plain(samples(receipt.data))}, observer {receipt.observer}; {receipt.disjoint.common} of the "
            f"{receipt.disjoint.compared} samples that parity is judged on are among them."
        )
    yield from _unchecked(bundle)
    made = manifest.provenance
    yield "## Provenance"
    fence = "`" * (1 + max(map(len, re.findall(r"`+", " ".join(command(manifest.request)))), default=2))
    yield f"{fence}sh\n{' '.join(command(manifest.request))}\n{fence}"
    yield (
        f"{made.created}, {_plain(made.host)}: {_plain(made.processor)}, {made.cores} cores, {_plain(made.system)}. "
        f"deploykit {made.deploykit}, Python {made.python}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(made.libraries.items()))
        + "."
    )


def _verdict(bundle: Reported) -> Iterator[str]:
    manifest, failures = bundle.manifest, bundle.failures
    yield (
        f"**{'FAILED' if failures else 'PASSED'}**: {precise(manifest.precision)}, computed by "
        f"{manifest.engine.backend} {manifest.engine.version}, compared with {_plain(manifest.model.oracle)} in FP32 "
        f"on {_plain(samples(manifest.parity.data))}."
    )
    if failures:
        yield _list(failures)
    if not manifest.weights.trained:
        origin = _plain(manifest.weights.source)
        yield f"**Untrained**: the weights are {origin}. What the network answers means nothing."


def _unchecked(bundle: Reported) -> Iterator[str]:
    if found := statements(bundle):
        yield "### What was not checked"
        yield _list(found)


def _comparison(found: Sequence[Row]) -> str:
    said = {True: "PASSED", False: "FAILED", None: "not run"}
    return table(
        (
            "#",
            "bundle",
            "network",
            "precision",
            "backend",
            "verdict",
            "SNR",
            "top-1 agrees",
            "accuracy",
            "p50",
            "samples/s",
            "size",
        ),
        [
            (
                str(row.number),
                row.bundle,
                row.model,
                precise(row.precision),
                row.backend,
                said[row.passed],
                decibels(row.snr_db) if row.identical or row.snr_db is not None else ABSENT,
                percent(row.top1_agreement),
                ABSENT if row.accuracy is None else percent(row.accuracy.candidate, 2),
                milliseconds(row.latency.p50_ms if row.latency else None),
                number(row.latency.throughput_per_s if row.latency else None),
                size(row.bytes),
            )
            for row in found
        ],
    )


def _stages(found: Stages) -> Iterator[str]:
    yield "## Parity by stage"
    yield table(
        ("stage", "gave the answers", "own SNR", "SNR so far", ""),
        [
            (called(stage), stage.subject, ABSENT, ABSENT, stage.unchecked)
            if stage.unchecked is not None
            else (
                called(stage),
                stage.subject,
                decibels(worst_snr(stage.own)),
                decibels(worst_snr(stage.outputs)),
                "; ".join(stage.failures) or "within its bound",
            )
            for stage in found.stages
        ],
    )


def _layers(found: LayerErrors) -> Iterator[str]:
    yield "## Error by layer"
    yield table(
        ("layer", "kind", "SNR behind it", "adds"),
        [
            (layer.module or layer.node, layer.op_type, decibels(layer.snr_db), power(layer.added))
            for layer in found.layers[:LAYERS]
        ],
    )


def _bench(found: Bench) -> Iterator[str]:
    yield f"## Latency: {_plain(found.library)} through {'the C++ library' if found.runtime == 'cpp' else 'Python'}"
    yield table(
        ("batch", "callers", "p50", "p90", "p99", "p99.9", "samples/s"),
        [
            (
                f"{each.latency.batch}{' (knee)' if each.latency.batch == found.knee else ''}",
                str(each.threads),
                *(milliseconds(value) for value in (each.latency.p50_ms, each.latency.p90_ms, each.latency.p99_ms)),
                milliseconds(each.p999_ms if each.latency.iterations >= ENOUGH_FOR_P999 else None),
                number(each.latency.throughput_per_s),
            )
            for each in found.measured
        ],
    )


def _samples(found: SampleAccount) -> Iterator[str]:
    yield "## Samples that differ most"
    yield table(
        ("sample", "label", "PyTorch", "here", "KL, nats"),
        [
            (each.name, each.label or ABSENT, each.reference, each.candidate, power(each.divergence))
            for each in found.worst[:LAYERS]
        ],
    )


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table as GitHub reads it; what stands in a cell is text, whatever it looks like."""
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(item)}" for item in items)


def _plain(text: str) -> str:
    """Text that is no markup: names may hold anything, and no line of theirs ends a table's row."""
    joined = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", joined)
