"""The report as Markdown: the same content as the page, and names are escaped."""

import msgspec
import pytest
from whole import stages, whole

from deploykit.bundle import manifest as manifests
from deploykit.core.values import Records
from deploykit.report import markdown
from deploykit.report.bundle_document import Report, describe_bundle
from deploykit.report.caveats import list_caveats

EVIL = "a|b\n# heading *x* [link](javascript:alert) <script>alert(1)</script> `code`"


@pytest.fixture
def manifest(fp32_bundle):
    return manifests.read_manifest(fp32_bundle)


@pytest.fixture
def full_bundle(manifest):
    return whole(manifest)


def rows(text):
    """Rows of tables as cells."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_the_verdict_is_first(full_bundle):
    lines = [line for line in markdown.render_markdown(Report((full_bundle,))).splitlines() if line]
    assert lines[1] == r"# nin\_cifar10 in INT8"
    assert lines[2].startswith("**PASSED**: INT8, computed by onnxruntime")
    assert "**Untrained**" in lines[3]


def test_failures_are_listed_below_it(manifest):
    text = markdown.render_markdown(
        Report((describe_bundle("bad", manifest, Records(stages=stages(manifest, failing=True))),))
    )
    assert "**FAILED**" in text
    assert "signal-to-noise ratio is 4.0 dB" in text


def test_every_record_has_a_table(full_bundle):
    text = markdown.render_markdown(Report((full_bundle,)))
    for title in ("Parity by stage", "Error by layer", "Samples that differ most", "Engines", "Calibration"):
        assert f"## {title}" in text
    assert ["4 (knee)", "1"] in [cells[:2] for cells in rows(text)]


def test_every_caveat_is_listed(full_bundle):
    text = markdown.render_markdown(Report((full_bundle,))).replace("\\", "")
    assert [caveat for caveat in list_caveats(full_bundle) if f"- {caveat}" not in text] == []


def test_a_comparison_has_a_row_for_every_engine(full_bundle, manifest):
    text = markdown.render_markdown(Report((full_bundle, describe_bundle("old", manifest, Records()))))
    numbers = [cells[0] for cells in rows(text) if cells[0].isdigit()]
    assert numbers == ["1", "2", "3"]
    assert text.count("**PASSED**") == 2


@pytest.mark.parametrize("several", [False, True])
def test_no_name_becomes_markup(full_bundle, several):
    original = full_bundle.manifest
    parity = msgspec.structs.replace(original.parity, passed=False, failures=(EVIL,), caveats=(EVIL,))
    model = msgspec.structs.replace(original.model, name=EVIL)
    evil = describe_bundle(EVIL, msgspec.structs.replace(original, parity=parity, model=model), full_bundle.records)
    text = markdown.render_markdown(Report((evil, evil) if several else (evil,)))
    assert "\n# heading" not in text
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert "[link]" not in text
    assert {len(cells) for cells in rows(text) if cells[0].isdigit()} <= {13, 3, 7}
