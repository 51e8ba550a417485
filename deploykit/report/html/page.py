"""Reports as pages: one bundle in full, or several beside each other. Each is one file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from markupsafe import Markup

from deploykit.core.values import CLASSES, Bench, Measured
from deploykit.report.bench import ENOUGH_FOR_P999
from deploykit.report.bounds import bounds
from deploykit.report.bundle_document import Report, Reported, rows, worst_snr
from deploykit.report.command import command
from deploykit.report.depth import called, unseen
from deploykit.report.extra_engines import built
from deploykit.report.html import figures
from deploykit.report.key_figures import key_figures
from deploykit.report.not_run import statements
from deploykit.report.words import ABSENT, WORDS, number

if TYPE_CHECKING:
    from jinja2 import Environment

HERE: Final = Path(__file__).parent

COLUMNS: Final = (
    ("#", "right"), ("network", ""), ("precision", ""), ("backend", ""), ("verdict", ""), ("SNR", "right"),
    ("top-1", "right"), ("accuracy", "right"), ("p50", "right"), ("samples/s", "right"), ("size", "right"),
)  # fmt: skip
"""Of the comparison, with the class of their cells."""

THUMBNAIL: Final = re.compile(r"data:image/(jpeg|png);base64,[A-Za-z0-9+/]+=*")


NOTHING: Final[Mapping[str, str]] = {}
"""No bundle that was wanted is absent."""


class Figures(NamedTuple):
    """Every drawing of a bundle's page; None where there is nothing to draw."""

    stages: Markup | None
    layers: Markup | None
    latency: Markup | None
    benches: tuple[Markup | None, ...]
    share: Markup | None
    convergence: Markup | None
    budget: Markup | None


def page(report: Report, absent: Mapping[str, str] = NOTHING) -> str:
    """A bundle's own page where it is the only one that there is or was to be, else the comparison."""
    return of_one(report.bundles[0]) if len(report.bundles) == 1 and not absent else of_several(report, absent)


def of_one(bundle: Reported) -> str:
    """The verdict first, then everything that it rests on. Equal bundles give equal pages."""
    manifest = bundle.manifest
    return _rendered(
        "bundle.html.j2",
        "",
        bundle=bundle,
        bounds=bounds(manifest.parity),
        key_figures=key_figures(bundle),
        figures=drawn(bundle),
        sections=_sections(bundle),
        shares=sorted(manifest.receipt.shares.items(), key=lambda item: (-item[1], item[0])),
        statements=statements(bundle),
        command=command(manifest.request),
    )


def of_several(report: Report, absent: Mapping[str, str] = NOTHING) -> str:
    """A row for every engine, what each costs and gains, and each bundle's verdict; and why others are `absent`."""
    found = rows(report)
    provenances = (bundle.manifest.provenance for bundle in report.bundles)
    return _rendered(
        "comparison.html.j2",
        (HERE / "sort.js").read_text(encoding="utf-8"),
        report=report,
        absent=absent,
        rows=found,
        columns=COLUMNS,
        pareto=figures.pareto(found),
        noisy=[row.number for row in found if row.latency is not None and row.latency.noisy],
        failed=[bundle.name for bundle in report.bundles if bundle.failures],
        untrained=[bundle.name for bundle in report.bundles if not bundle.manifest.weights.trained],
        machines=sorted({f"{made.host}, {made.processor}, {made.cores} cores" for made in provenances}),
    )


def drawn(bundle: Reported) -> Figures:
    """What there is to draw of a bundle."""
    manifest, records = bundle.manifest, bundle.records
    return Figures(
        stages=figures.stages(records.stages) if records.stages is not None else None,
        layers=figures.layers(records.layers) if records.layers is not None else None,
        latency=figures.latency(records.measured, "latency") if records.measured is not None else None,
        benches=tuple(_of_bench(bench, f"bench-{place}") for place, bench in enumerate(records.benches)),
        share=figures.share(manifest.receipt),
        convergence=figures.convergence(manifest.calibration) if manifest.calibration is not None else None,
        budget=figures.budget(manifest.budget) if manifest.budget is not None else None,
    )


def _of_bench(bench: Bench, name: str) -> Markup | None:
    return figures.sweep(bench, name) if len(bench.measured) > 1 else figures.latency(bench.measured[0], name)


def _sections(bundle: Reported) -> tuple[tuple[str, str], ...]:
    """Behind the verdict, in order: the template's name, and the title. What does not concern a bundle has none."""
    manifest = bundle.manifest
    everything = (
        ("stages", "Parity by stage", True),
        ("layers", "Error by layer", True),
        ("latency", "Latency", True),
        ("precision", "Precision as it ran", True),
        ("calibration", "Calibration", manifest.calibration is not None),
        ("budget", "Accuracy budget", manifest.budget is not None),
        ("beside", "Engines", bool(manifest.beside)),
        ("samples", "Samples", manifest.model.head in CLASSES),
        ("unchecked", "What was not checked", True),
        ("provenance", "Provenance", True),
    )
    return tuple((name, title) for name, title, concerned in everything if concerned)


def _rendered(template: str, script: str, **values: Any) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (HERE / "style.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template(template)
        .render(style=Markup(style), script=Markup(script), script_hash=f"sha256-{digest}", **values)
    )


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(WORDS)
    made.filters.update(
        worst=worst_snr,
        called=called,
        unseen=unseen,
        p999=p999,
        span=_span,
        built=built,
        statements=statements,
        picture=_is_picture,
    )
    return made


def p999(measured: Measured | None) -> float | None:
    """In milliseconds; of fewer calls than it takes, the slowest alone would be it."""
    return measured.p999_ms if measured is not None and measured.latency.iterations >= ENOUGH_FOR_P999 else None


def _span(span: tuple[float, float] | None) -> str:
    if span is None:
        return ABSENT
    low, high = map(number, span)
    return low if low == high else f"{low}–{high}"


def _is_picture(text: str) -> bool:
    """Whether it is a picture by itself: nothing else is put where a browser would fetch it."""
    return THUMBNAIL.fullmatch(text) is not None
