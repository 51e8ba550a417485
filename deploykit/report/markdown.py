"""A report as Markdown: the verdict, the figures and their caveats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from deploykit.core.values import Bench, LayerErrors, Measurement, SampleDifferences, Stages
from deploykit.report.bench import ENOUGH_FOR_P999, THROUGH
from deploykit.report.bounds import list_bounds
from deploykit.report.bundle_document import EngineRow, Report, ReportedBundle, bundle_headline, engine_rows, worst_snr
from deploykit.report.caveats import list_caveats
from deploykit.report.cpp_engine import describe_cpp_engine
from deploykit.report.export_command import export_command_words
from deploykit.report.formatting import (
    ABSENT,
    fill_bundle_path,
    format_bytes,
    format_db,
    format_ms,
    format_number,
    format_percent,
    format_power,
    format_precision,
    format_samples,
    placeholder_path,
)
from deploykit.report.key_figures import key_figures
from deploykit.report.precision import describe_disjointness, describe_file_ranges
from deploykit.report.speedup import format_factor, list_slower_than_fp16

MARK = "<!-- deploykit report -->"

LAYERS = 10
"""Layers and samples listed; the HTML page and the JSON document have all."""


def render_markdown(report: Report) -> str:
    """A single bundle in full; of several, a table of all engines and then each bundle's verdict."""
    parts = [MARK]
    if len(report.bundles) == 1:
        parts += _bundle_sections(report.bundles[0])
    else:
        rows = engine_rows(report)
        parts += [f"# {len(report.bundles)} bundles compared", _engines_table(rows)]
        if slower := tuple(list_slower_than_fp16(rows)):
            parts.append(_bullet_list(slower))
        for bundle in report.bundles:
            parts += [f"## {_escape_markdown(bundle.name)}", *_verdict_lines(bundle)]
            parts += _caveat_lines(bundle)
    return "\n\n".join(parts) + "\n"


def _bundle_sections(bundle: ReportedBundle) -> Iterator[str]:
    manifest, records = bundle.manifest, bundle.records
    yield f"# {_escape_markdown(manifest.model.name)} in {format_precision(manifest.precision)}"
    yield from _verdict_lines(bundle)
    yield format_table(
        ("figure", "", ""), [(figure.name, figure.figure, figure.conditions) for figure in key_figures(bundle)]
    )
    yield "## Figures and tolerances"
    states = {True: "pass", False: "FAIL", None: "not judged"}
    yield format_table(
        ("output", "figure", "measured", "tolerance", ""),
        [(row.output, row.figure, row.measured, row.bound, states[row.passed]) for row in list_bounds(manifest.parity)],
    )
    if records.stages is not None:
        yield from _stages_section(records.stages)
    if records.layers is not None:
        yield from _layers_section(records.layers)
    for bench in records.benches:
        yield from _bench_section(bench)
    if records.samples is not None:
        yield from _samples_section(records.samples)
    if manifest.extra_engines:
        yield "## Engines"
        yield _engines_table(engine_rows(Report((bundle,))))
    if (receipt := manifest.calibration) is not None:
        yield "## Calibration"
        yield (
            f"On {_escape_markdown(format_samples(receipt.data))}, observer {receipt.observer}; "
            f"{describe_disjointness(receipt)}."
        )
    if manifest.file_ranges is not None:
        yield "## INT8 ranges"
        yield f"{_escape_markdown(describe_file_ranges(manifest.file_ranges))}."
    yield from _caveat_lines(bundle)
    yield "## Provenance"
    command = " ".join(export_command_words(manifest.request))
    fence = "`" * (1 + max(map(len, re.findall(r"`+", command)), default=2))
    yield f"{fence}sh\n{command}\n{fence}"
    provenance = manifest.provenance
    host, processor, system = map(_escape_markdown, (provenance.host, provenance.processor, provenance.system))
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(provenance.libraries.items()))
    yield (
        f"{provenance.created}, {host}: {processor}, {provenance.cores} cores, {system}. "
        f"deploykit {provenance.deploykit}, Python {provenance.python}, {libraries}."
    )


def _verdict_lines(bundle: ReportedBundle) -> Iterator[str]:
    manifest, failures = bundle.manifest, bundle.failures
    oracle, data = map(_escape_markdown, (manifest.model.oracle, format_samples(manifest.parity.data)))
    yield (
        f"**{bundle_headline(bundle)}**: {format_precision(manifest.precision)}, computed by "
        f"{manifest.engine.backend} {manifest.engine.version}, compared with {oracle} in FP32 on {data}."
    )
    if failures:
        yield _bullet_list(failures)
    if (cpp := describe_cpp_engine(manifest)) is not None:
        yield f"**C++**: {_escape_markdown(fill_bundle_path(cpp, placeholder_path(bundle.name)))}."
    if not manifest.weights.trained:
        origin = _escape_markdown(manifest.weights.source)
        yield f"**Untrained**: the weights are {origin}. Predictions are meaningless; accuracy was not evaluated."


def _caveat_lines(bundle: ReportedBundle) -> Iterator[str]:
    if caveats := list_caveats(bundle):
        yield "### Caveats"
        yield _bullet_list(caveats)


def _engines_table(rows: Sequence[EngineRow]) -> str:
    verdicts = {True: "PASSED", False: "FAILED", None: "not run"}
    return format_table(
        (
            "#",
            "bundle",
            "network",
            "precision",
            "backend",
            "verdict",
            "SNR",
            "top-1 agreement",
            "accuracy",
            "p50",
            "over FP32",
            "samples/s",
            "size",
        ),
        [
            (
                str(row.number),
                row.bundle,
                row.model,
                format_precision(row.precision),
                row.backend,
                verdicts[row.passed],
                format_db(row.snr_db) if row.identical or row.snr_db is not None else ABSENT,
                format_percent(row.top1_agreement),
                ABSENT if row.accuracy is None else format_percent(row.accuracy.candidate, 2),
                format_ms(row.latency.p50_ms if row.latency else None),
                ABSENT if row.fp32 is None else format_factor(row.fp32.speedup.estimate),
                format_number(row.latency.throughput_per_s if row.latency else None),
                format_bytes(row.bytes),
            )
            for row in rows
        ],
    )


def _stages_section(stages: Stages) -> Iterator[str]:
    yield "## Parity by stage"
    yield format_table(
        ("stage", "runtime", "stage SNR", "cumulative SNR", ""),
        [
            (stage.stage, stage.subject, ABSENT, ABSENT, f"not run: {stage.not_run_reason}")
            if stage.not_run_reason is not None
            else (
                stage.stage,
                stage.subject,
                format_db(worst_snr(stage.stage_outputs)) if stage.stage_outputs else ABSENT,
                format_db(worst_snr(stage.outputs)),
                "; ".join(stage.failures) or "pass",
            )
            for stage in stages.stages
        ],
    )


def _layers_section(errors: LayerErrors) -> Iterator[str]:
    yield "## Error by layer"
    yield format_table(
        ("layer", "operator", "SNR after it", "added noise"),
        [
            (layer.module or layer.node, layer.op_type, format_db(layer.snr_db), format_power(layer.added_noise))
            for layer in errors.layers[:LAYERS]
        ],
    )


def _bench_section(bench: Bench) -> Iterator[str]:
    yield f"## Latency: {_escape_markdown(bench.library)} through {THROUGH[bench.runtime]}"
    yield format_table(
        ("batch", "callers", "p50", "p90", "p99", "p99.9", "samples/s"),
        [_bench_row(measurement, bench.knee) for measurement in bench.measurements],
    )


def _bench_row(measurement: Measurement, knee: int | None) -> tuple[str, ...]:
    latency = measurement.latency
    return (
        f"{latency.batch}{' (knee)' if latency.batch == knee else ''}",
        str(measurement.threads),
        *(format_ms(value) for value in (latency.p50_ms, latency.p90_ms, latency.p99_ms)),
        format_ms(measurement.p999_ms if latency.iterations >= ENOUGH_FOR_P999 else None),
        format_number(latency.throughput_per_s),
    )


def _samples_section(differences: SampleDifferences) -> Iterator[str]:
    yield "## Samples that differ most"
    yield format_table(
        ("sample", "label", "PyTorch", "bundle", "KL, nats"),
        [
            (sample.name, sample.label or ABSENT, sample.reference, sample.candidate, format_power(sample.divergence))
            for sample in differences.worst[:LAYERS]
        ],
    )


def format_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; the content of cells is escaped."""
    lines = [head, ["---"] * len(head), *([_escape_markdown(cell) for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullet_list(items: Iterable[str]) -> str:
    return "\n".join(f"- {_escape_markdown(item)}" for item in items)


def _escape_markdown(text: str) -> str:
    """Escape Markdown and join lines: names may contain anything, and a line break would end a table's row."""
    joined = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", joined)
