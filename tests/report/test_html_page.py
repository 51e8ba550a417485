"""The page as text: content and order, escaping of names, and accessibility."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import msgspec
import pytest
from whole import bench, measured, stages, whole

from deploykit.bundle import manifest as manifests
from deploykit.core.values import Records, Stages
from deploykit.report import bundle_document as reports
from deploykit.report.bundle_document import Report, describe_bundle
from deploykit.report.caveats import list_caveats
from deploykit.report.document import encode_document
from deploykit.report.html import page as pages

EVIL = """</style></title></svg><script>alert('x')</script>"><img src=x onerror=alert(1)> $a$ & "quoted" 'name'"""

FOLDER = Path(pages.__file__).parent


class PageParser(HTMLParser):
    """A page as elements with their attributes, headings with their text, and all text together."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.headings, self.text, self._heading = [], [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append([int(tag[1]), ""])
            self._heading = self.headings[-1]

    def handle_endtag(self, tag):
        if re.fullmatch("h[1-6]", tag):
            self._heading = None

    def handle_data(self, data):
        self.text += data
        if self._heading is not None:
            self._heading[1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def manifest(fp32_bundle):
    return manifests.read_manifest(fp32_bundle)


@pytest.fixture(scope="module")
def full_bundle(manifest):
    return whole(manifest)


@pytest.fixture(scope="module")
def single_page(full_bundle):
    return pages.render_bundle(full_bundle)


@pytest.fixture(scope="module")
def bundle_without_records(manifest):
    return describe_bundle("old", manifest, Records())


@pytest.fixture(scope="module")
def comparison_page(full_bundle, bundle_without_records):
    return pages.render_comparison(Report((full_bundle, bundle_without_records)))


@pytest.fixture(params=["single_page", "comparison_page"])
def any_page(request):
    return request.getfixturevalue(request.param)


# ── Content ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_verdict_is_first_and_states_what_was_compared(single_page):
    text = PageParser(single_page[single_page.index("<main>") :]).text
    assert " ".join(text.split()).startswith("PASSED INT8, computed by onnxruntime")
    assert "compared with eager PyTorch in FP32 on 4 samples of synthetic (evaluation, synthetic)" in text


def test_sections_are_in_order(single_page):
    assert [text for level, text in PageParser(single_page).headings if level == 2][1:] == [
        "Parity by stage", "Error by layer", "Latency", "Executed precision", "Calibration", "Accuracy budget",
        "Engines", "Samples", "Caveats", "Provenance",
    ]  # fmt: skip


def test_untrained_weights_are_named_with_the_verdict(single_page):
    assert 0 < single_page.index("Untrained: the weights are random, seed 0") < single_page.index("Key figures")


def test_every_failure_is_listed_with_the_verdict(manifest):
    parity = msgspec.structs.replace(manifest.parity, passed=False, failures=("first thing", "second thing"))
    page = pages.render_bundle(describe_bundle("bad", msgspec.structs.replace(manifest, parity=parity), Records()))
    verdict = PageParser(page[page.index("<main>") : page.index("Key figures")]).text
    assert "FAILED" in verdict
    assert "PASSED" not in verdict
    assert "first thing" in verdict
    assert "second thing" in verdict


def test_a_failing_stage_fails_a_bundle_whose_export_passed(manifest):
    bundle = describe_bundle("bad", manifest, Records(stages=stages(manifest, failing=True)))
    assert bundle.failures == ("stage Q/DQ: output 'logits': the signal-to-noise ratio is 4.0 dB",)
    assert (
        "The failing stage, the first beyond its tolerance: Q/DQ, the graph with Q/DQ pairs"
        in PageParser(pages.render_bundle(bundle)).text
    )


def test_a_failure_of_the_manifest_is_not_listed_twice(manifest):
    records = Records(stages=stages(manifest, failing=True))
    (failure,) = records.stages.failing_stage.failures
    parity = msgspec.structs.replace(manifest.parity, passed=False, failures=(failure,))
    assert describe_bundle("bad", msgspec.structs.replace(manifest, parity=parity), records).failures == (failure,)


def test_stages_that_exceed_the_tolerance_only_together_fail_a_bundle_too(manifest):
    broken = msgspec.structs.replace(stages(manifest), combined_failures=("all together leave 9.1 dB",))
    assert describe_bundle("bad", manifest, Records(stages=broken)).failures == ("all together leave 9.1 dB",)


def test_what_was_not_tested_is_listed_with_its_command(bundle_without_records):
    text = " ".join(PageParser(pages.render_bundle(bundle_without_records)).text.split())
    for command in (
        "deploykit parity PATH/TO/old --stages --save",
        "deploykit parity PATH/TO/old --layers --save",
        "deploykit parity PATH/TO/old --worst 8 --save",
        "deploykit bench PATH/TO/old --save",
        "deploykit bench PATH/TO/old --batch 1,2,4,8,16,32 --save",
    ):
        assert command in text


def test_sections_that_do_not_apply_to_a_bundle_are_omitted(bundle_without_records):
    titles = [text for level, text in PageParser(pages.render_bundle(bundle_without_records)).headings if level == 2]
    assert {"Calibration", "Accuracy budget", "Engines"}.isdisjoint(titles)


def test_every_caveat_is_listed(full_bundle, single_page):
    text = PageParser(single_page[single_page.index('<h2 id="caveats"') :]).text
    caveats = list_caveats(full_bundle)
    assert "C++, the C++ library, was not tested: no compiler was found" in caveats
    assert "the GPU's clock was not fixed" in caveats
    for caveat in caveats:
        assert caveat in text


def test_every_digest_version_and_path_of_the_manifest_is_on_the_page(full_bundle, single_page):
    provenance, text = full_bundle.manifest.provenance, PageParser(single_page).text
    wanted = [
        provenance.host,
        provenance.processor,
        provenance.python,
        provenance.code_sha256,
        full_bundle.manifest.key,
        full_bundle.manifest.weights.sha256,
    ]
    wanted += [f"{name} {version}" for name, version in provenance.libraries.items()]
    wanted += [
        part
        for path, file in full_bundle.manifest.files.items()
        if path != "report.html"
        for part in (path, file.sha256)
    ]
    assert [part for part in wanted if part not in text] == []


def test_equal_bundles_give_equal_pages(full_bundle, single_page):
    assert pages.render_bundle(full_bundle) == single_page


def test_nan_can_be_rendered(full_bundle):
    lowest = -1.7976931348623157e308
    outputs = tuple(
        msgspec.structs.replace(output, snr_db=lowest, top1_agreement=None)
        for output in full_bundle.manifest.parity.outputs
    )
    broken = tuple(
        msgspec.structs.replace(stage, outputs=outputs, stage_outputs=outputs)
        for stage in full_bundle.records.stages.stages
    )
    manifest = msgspec.structs.replace(
        full_bundle.manifest,
        parity=msgspec.structs.replace(full_bundle.manifest.parity, outputs=outputs, accuracy=None),
    )
    records = msgspec.structs.replace(full_bundle.records, stages=Stages(broken, manifest.parity.data))
    bundle = describe_bundle("nan", manifest, records)
    assert "not a number" in pages.render_bundle(bundle)
    assert "not a number" in pages.render_comparison(Report((bundle, full_bundle)))


@pytest.mark.parametrize("change", [{"outputs": ()}, {"accuracy": None}])
def test_a_verdict_without_some_of_its_figures_can_be_rendered(full_bundle, change):
    manifest = msgspec.structs.replace(
        full_bundle.manifest, parity=msgspec.structs.replace(full_bundle.manifest.parity, **change)
    )
    assert "<h1>" in pages.render_bundle(describe_bundle("x", manifest, full_bundle.records))


def test_an_outlier_is_marked_and_does_not_compress_the_histogram(full_bundle):
    usual = measured()
    stalled = msgspec.structs.replace(
        usual,
        latency=msgspec.structs.replace(usual.latency, iterations=1000),
        p999_ms=900.0,
        durations_ns=(*usual.durations_ns * 5, 900_000_000),
    )
    records = msgspec.structs.replace(full_bundle.records, measurement=stalled)
    assert "p99.9 900 ms →" in pages.render_bundle(describe_bundle("x", full_bundle.manifest, records))


# ── Several bundles ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_comparison_has_a_row_for_every_engine(full_bundle, bundle_without_records):
    rows = reports.engine_rows(Report((full_bundle, bundle_without_records)))
    assert [(row.number, row.bundle, row.backend.split()[0]) for row in rows] == [
        (1, "nin-int8", "onnxruntime"), (2, "nin-int8", "openvino"), (3, "old", "onnxruntime"),
    ]  # fmt: skip


def test_a_comparison_ends_with_each_bundles_own_verdict(comparison_page):
    assert [text.strip() for level, text in PageParser(comparison_page).headings if level == 3] == [
        "nin-int8: PASSED",
        "old: PASSED",
    ]


def test_latency_of_a_busy_machine_is_noted_below_the_table(full_bundle):
    alike = tuple(
        msgspec.structs.replace(full_bundle, name=name, manifest=_without_extra_engines(full_bundle))
        for name in ("a", "b")
    )
    calm, busy = (
        msgspec.structs.replace(full_bundle.manifest.latency, settled=True, deviation_ms=ms) for ms in (0.0, 1e9)
    )
    manifests_ = (msgspec.structs.replace(alike[0].manifest, latency=latency) for latency in (calm, busy))
    bundles = tuple(msgspec.structs.replace(alike[0], manifest=manifest) for manifest in manifests_)
    assert "the latency of row 2 was measured" in pages.render_comparison(Report(bundles))
    assert "The machine was busy" not in pages.render_comparison(Report((bundles[0], bundles[0])))


def test_the_pareto_plot_shows_accuracy_only_if_every_engine_has_it(full_bundle, bundle_without_records):
    by_accuracy = pages.render_comparison(
        Report(
            (
                full_bundle,
                msgspec.structs.replace(full_bundle, name="twin", manifest=_without_extra_engines(full_bundle)),
            )
        )
    )
    assert "top-1 accuracy, %: up is better" not in pages.render_comparison(
        Report((full_bundle, bundle_without_records))
    )
    assert "SNR, dB: up is better" in pages.render_comparison(Report((full_bundle, bundle_without_records)))
    assert "SNR, dB: up is better" in by_accuracy  # the extra engine was evaluated without labels
    alike = tuple(
        msgspec.structs.replace(full_bundle, name=name, manifest=_without_extra_engines(full_bundle))
        for name in ("a", "b")
    )
    assert "top-1 accuracy, %: up is better" in pages.render_comparison(Report(alike))


def _without_extra_engines(bundle):
    return msgspec.structs.replace(bundle.manifest, extra_engines=())


# ── Escaping of names ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def hostile_bundle(manifest):
    """Every string that comes from user input."""
    replace, full = msgspec.structs.replace, whole(manifest)
    original, known = full.manifest, full.records
    parity = replace(
        original.parity, failures=(EVIL,), passed=False, caveats=(EVIL,), data=replace(original.parity.data, name=EVIL)
    )
    poisoned = replace(
        original,
        model=replace(original.model, name=EVIL, paper=EVIL, arguments={EVIL: EVIL}),
        weights=replace(original.weights, source=EVIL),
        request=replace(original.request, data=EVIL, arguments=(EVIL,)),
        parity=parity,
        engine=replace(original.engine, version=EVIL),
        provenance=replace(original.provenance, host=EVIL, processor=EVIL),
        budget=replace(original.budget, steps=tuple(replace(step, layer=EVIL) for step in original.budget.steps)),
    )
    samples = known.samples
    records = replace(
        known,
        stages=replace(known.stages, stages=tuple(replace(stage, subject=EVIL) for stage in known.stages.stages)),
        layers=replace(
            known.layers, layers=tuple(replace(layer, module=EVIL, node=EVIL) for layer in known.layers.layers)
        ),
        samples=replace(
            samples,
            classes=tuple(replace(row, name=EVIL, predicted_as={EVIL: 1}) for row in samples.classes),
            worst=tuple(
                replace(
                    each, name=EVIL, label=EVIL, reference=EVIL, candidate=EVIL, thumbnail="https://example.org/x.jpg"
                )
                for each in samples.worst
            ),
        ),
        benches=(*known.benches, bench(library=f"{EVIL} 1.0", several=False)),
    )
    return describe_bundle(EVIL, poisoned, records)


@pytest.fixture(scope="module", params=["single_page", "comparison_page"])
def hostile_page(request, hostile_bundle):
    return (
        pages.render_bundle(hostile_bundle)
        if request.param == "alone"
        else pages.render_comparison(Report((hostile_bundle, hostile_bundle)))
    )


def test_no_name_becomes_markup(hostile_page):
    parser = PageParser(hostile_page)
    assert EVIL in parser.text
    assert all("onerror" not in attributes for _, attributes in parser.elements)
    assert all("alert" not in attributes.get("src", "") for _, attributes in parser.elements)
    assert {"x", "object", "iframe"}.isdisjoint({tag for tag, _ in parser.elements})


def test_no_script_but_the_one_that_sorts(hostile_bundle):
    assert PageParser(pages.render_bundle(hostile_bundle)).all("script") == []
    assert len(PageParser(pages.render_comparison(Report((hostile_bundle, hostile_bundle)))).all("script")) == 1


def test_no_image_url_is_copied_into_the_page(hostile_page):
    assert PageParser(hostile_page).all("img") == []


@pytest.mark.parametrize("name", ["a\x00b\x1bc", "\ud800", "line\nbreak", "猫", "$\\frac{1}{2}$"])
def test_any_name_can_be_drawn(full_bundle, name):
    layers = tuple(msgspec.structs.replace(layer, module=name) for layer in full_bundle.records.layers.layers)
    changed = msgspec.structs.replace(full_bundle.records.layers, layers=layers)
    page = pages.render_bundle(
        describe_bundle(name, full_bundle.manifest, msgspec.structs.replace(full_bundle.records, layers=changed))
    )
    assert "Noise that layers add" in page


# ── Self-contained and accessible ─────────────────────────────────────────────────────────────────────────────────────


def test_no_address_of_another_place_is_on_the_page(any_page):
    assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!#|data:)[^\s\"')]+", any_page) == []
    assert "@import" not in any_page
    assert "://" not in any_page


def test_the_content_security_policy_forbids_all_external_content(any_page):
    (policy,) = [meta["content"] for meta in PageParser(any_page).all("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_the_page_has_one_top_heading_and_skips_no_level(any_page):
    levels = [level for level, _ in PageParser(any_page).headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= before + 1 for before, later in itertools.pairwise(levels))


def test_the_language_is_named_and_the_verdict_can_be_skipped_to(any_page):
    parser = PageParser(any_page)
    assert parser.all("html")[0]["lang"] == "en"
    assert next(link for link in parser.all("a"))["href"] == "#verdict"


def test_ids_are_unique_and_every_reference_resolves(any_page):
    parser = PageParser(any_page)
    ids = [attributes["id"] for _, attributes in parser.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for _, attributes in parser.elements if attributes.get("href", "").startswith("#")}
    named = {attributes["aria-labelledby"] for _, attributes in parser.elements if "aria-labelledby" in attributes}
    assert links | named | set(re.findall(r"url\(#([^)]+)\)", any_page)) <= set(ids)


def test_every_table_has_a_caption_and_every_head_a_scope(any_page):
    parser = PageParser(any_page)
    assert len(parser.all("caption")) == len(parser.all("table")) > 0
    assert all(head.get("scope") in ("col", "row") for head in parser.all("th"))


def test_every_drawing_has_a_description(single_page):
    drawings = [drawing for drawing in PageParser(single_page).all("svg") if drawing.get("role") == "img"]
    assert len(drawings) == 8
    assert all(len(drawing["aria-label"]) > 20 for drawing in drawings)


def test_every_other_picture_has_a_text_or_is_hidden(any_page):
    parser = PageParser(any_page)
    assert all(image.get("alt") for image in parser.all("img"))
    assert all(drawing.get("role") == "img" or drawing.get("aria-hidden") == "true" for drawing in parser.all("svg"))


def test_charts_use_the_colours_of_the_page(any_page):
    for drawing in re.findall(r"<svg[^>]*role=\"img\".*?</svg>", any_page, re.DOTALL):
        assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?!-)", re.sub(r"(?:href=\"|url\()#[\w-]+", "", drawing)) == []
        assert "var(--" in drawing


def variables(block):
    return dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]{6});", block))


STYLE = (FOLDER / "style.css").read_text()
LIGHT = variables(STYLE[: STYLE.index("@media")])
DARK = {**LIGHT, **variables(STYLE[STYLE.index("prefers-color-scheme: dark") : STYLE.index("* {")])}


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *((text, ground) for text in ("--ink", "--muted", "--accent") for ground in ("--page", "--card", "--sunk")),
        *((text, "--card") for text in ("--good", "--bad", "--warn")),
        *((text, ground) for text in ("--ink", "--good") for ground in ("--good-page",)),
        *((text, ground) for text in ("--ink", "--bad") for ground in ("--bad-page",)),
        ("--warn", "--warn-page"),
    ],
)
def test_text_contrasts_with_its_background(scheme, text, ground):
    assert contrast(scheme[text], scheme[ground]) >= 4.5


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("colour", ["--blue", "--orange", "--green", "--purple", "--grey"])
def test_chart_marks_contrast_with_the_card(scheme, colour):
    assert contrast(scheme[colour], scheme["--card"]) >= 3


# ── The document ──────────────────────────────────────────────────────────────────────────────────────────────────────

SCHEMA = Path(reports.__file__).with_name("schema.json")


def test_the_published_schema_is_fresh():
    assert SCHEMA.read_text(encoding="utf-8") == reports.report_schema(), "run scripts/update_generated"


def test_a_document_conforms_to_the_published_schema(full_bundle, bundle_without_records):
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes()))
    content = json.loads(encode_document("report", Report((full_bundle, bundle_without_records))))
    schema.validate(content)
    content["content"]["bundles"][0]["verdict"] = "fine"
    assert not schema.is_valid(content)


def test_a_document_round_trips(full_bundle):
    text = encode_document("report", Report((full_bundle,)))
    assert msgspec.json.decode(text, type=reports.ReportDocument).content == Report((full_bundle,))


def test_missing_bundles_with_one_reason_are_listed_together(full_bundle):
    text = PageParser(pages.render_comparison(Report((full_bundle,)), {"b": "no weights", "c": "no weights"})).text
    assert "1 bundle compared" in text
    assert "b, c: no weights" in text
