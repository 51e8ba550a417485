"""Reports as self-contained HTML pages: one bundle in full, or several compared."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from markupsafe import Markup

from deploykit.core.values import CLASSIFIER_HEADS, Bench, Measurement
from deploykit.report.bench import ENOUGH_FOR_P999
from deploykit.report.bounds import list_bounds
from deploykit.report.bundle_document import Report, ReportedBundle, bundle_headline, engine_rows, worst_snr
from deploykit.report.caveats import list_caveats
from deploykit.report.cpp_engine import describe_cpp_engine
from deploykit.report.depth import list_not_run
from deploykit.report.export_command import export_command_words
from deploykit.report.extra_engines import describe_build
from deploykit.report.formatting import ABSENT, FILTERS, fill_bundle_path, format_number, placeholder_path
from deploykit.report.html import figures
from deploykit.report.key_figures import key_figures
from deploykit.report.precision import describe_disjointness, describe_file_ranges
from deploykit.report.speedup import format_factor, list_slower_than_fp16

if TYPE_CHECKING:
    from jinja2 import Environment

HERE: Final = Path(__file__).parent

ENGINE_COLUMNS: Final = (
    ("#", "right"), ("network", ""), ("precision", ""), ("backend", ""), ("verdict", ""), ("SNR", "right"),
    ("top-1", "right"), ("accuracy", "right"), ("p50", "right"), ("over FP32", "right"), ("samples/s", "right"),
    ("size", "right"),
)  # fmt: skip
"""Columns of the comparison, with the CSS class of their cells."""

THUMBNAIL: Final = re.compile(r"data:image/(jpeg|png);base64,[A-Za-z0-9+/]+=*")


NOTHING: Final[Mapping[str, str]] = {}
"""No bundle is missing."""


class Figures(NamedTuple):
    """The drawings of a bundle's page; None if there is nothing to draw."""

    stages: Markup | None
    layers: Markup | None
    latency: Markup | None
    benches: tuple[Markup | None, ...]
    share: Markup | None
    convergence: Markup | None
    budget: Markup | None


def render_page(report: Report, absent: Mapping[str, str] = NOTHING) -> str:
    """Render a single bundle or a comparison of several; `absent` are missing bundles with the reasons."""
    return (
        render_bundle(report.bundles[0])
        if len(report.bundles) == 1 and not absent
        else render_comparison(report, absent)
    )


def render_bundle(bundle: ReportedBundle) -> str:
    """Render the verdict, then its details. Equal bundles give equal pages."""
    manifest = bundle.manifest
    return _render_template(
        "bundle.html.j2",
        "",
        bundle=bundle,
        bounds=list_bounds(manifest.parity),
        key_figures=key_figures(bundle),
        figures=draw_figures(bundle),
        sections=_list_sections(bundle),
        shares=sorted(manifest.receipt.shares.items(), key=lambda item: (-item[1], item[0])),
        caveats=list_caveats(bundle),
        path=placeholder_path(bundle.name),
        command=export_command_words(manifest.request),
    )


def render_comparison(report: Report, absent: Mapping[str, str] = NOTHING) -> str:
    """Render a row for every engine, the Pareto plot and each bundle's verdict; `absent` are missing bundles."""
    engines = engine_rows(report)
    provenances = (bundle.manifest.provenance for bundle in report.bundles)
    return _render_template(
        "comparison.html.j2",
        (HERE / "sort.js").read_text(encoding="utf-8"),
        report=report,
        absent=absent,
        rows=engines,
        columns=ENGINE_COLUMNS,
        pareto=figures.draw_pareto(engines),
        pareto_metric=figures.pareto_metric(engines),
        noisy=[row.number for row in engines if row.latency is not None and row.latency.noisy],
        failed=[bundle.name for bundle in report.bundles if bundle.failures],
        untrained=[bundle.name for bundle in report.bundles if not bundle.manifest.weights.trained],
        machines=sorted({f"{origin.host}, {origin.processor}, {origin.cores} cores" for origin in provenances}),
    )


def draw_figures(bundle: ReportedBundle) -> Figures:
    """Draw the figures of a bundle's page."""
    manifest, records = bundle.manifest, bundle.records
    return Figures(
        stages=figures.draw_stages(records.stages) if records.stages is not None else None,
        layers=figures.draw_layers(records.layers) if records.layers is not None else None,
        latency=figures.draw_latency(records.measurement, "latency") if records.measurement is not None else None,
        benches=tuple(_draw_bench(bench, f"bench-{place}") for place, bench in enumerate(records.benches)),
        share=figures.draw_precision_share(manifest.receipt),
        convergence=figures.draw_convergence(manifest.calibration) if manifest.calibration is not None else None,
        budget=figures.draw_budget(manifest.budget) if manifest.budget is not None else None,
    )


def _draw_bench(bench: Bench, name: str) -> Markup | None:
    return (
        figures.draw_batch_sweep(bench, name)
        if len(bench.measurements) > 1
        else figures.draw_latency(bench.measurements[0], name)
    )


def _list_sections(bundle: ReportedBundle) -> tuple[tuple[str, str], ...]:
    """The sections after the verdict, in order: name of the template, and title."""
    manifest = bundle.manifest
    sections = (
        ("stages", "Parity by stage", True),
        ("layers", "Error by layer", True),
        ("latency", "Latency", True),
        ("precision", "Executed precision", True),
        ("calibration", "Calibration", manifest.calibration is not None),
        ("budget", "Accuracy budget", manifest.budget is not None),
        ("engines", "Engines", bool(manifest.extra_engines)),
        ("samples", "Samples", manifest.model.head in CLASSIFIER_HEADS),
        ("caveats", "Caveats", True),
        ("provenance", "Provenance", True),
    )
    return tuple((name, title) for name, title, shown in sections if shown)


def _render_template(template: str, script: str, **values: Any) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (HERE / "style.css").read_text(encoding="utf-8")
    return (
        _create_environment()
        .get_template(template)
        .render(style=Markup(style), script=Markup(script), script_hash=f"sha256-{digest}", **values)
    )


def _create_environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.filters.update(
        worst=worst_snr,
        headline=bundle_headline,
        not_run=list_not_run,
        p999=p999_ms,
        span=_format_range,
        built=describe_build,
        caveats=list_caveats,
        disjointness=describe_disjointness,
        file_ranges=describe_file_ranges,
        picture=_is_picture,
        cpp_engine=describe_cpp_engine,
        factor=format_factor,
        fill_path=fill_bundle_path,
        path_of=placeholder_path,
        slower_than_fp16=list_slower_than_fp16,
    )
    return environment


def p999_ms(measured: Measurement | None) -> float | None:
    """The 99.9th percentile in milliseconds; None for fewer calls, where it would be the slowest call."""
    return measured.p999_ms if measured is not None and measured.latency.iterations >= ENOUGH_FOR_P999 else None


def _format_range(span: tuple[float, float] | None) -> str:
    if span is None:
        return ABSENT
    low, high = map(format_number, span)
    return low if low == high else f"{low}–{high}"


def _is_picture(text: str) -> bool:
    """Whether the text is an embedded picture; anything else could make a browser load something."""
    return THUMBNAIL.fullmatch(text) is not None
