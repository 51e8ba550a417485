"""`deploykit report`: pages and documents of bundles, and what they do not overwrite."""

import json
from pathlib import Path

import jsonschema
import pytest

from deploykit.report import bundle_document

SCHEMA = Path(bundle_document.__file__).with_name("schema.json")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_page_goes_into_the_current_folder(cli, here, fp32_bundle):
    result = cli("report", fp32_bundle)
    assert result.code == 0, result.err
    assert result.out == ""
    assert "report.html written" in result.err
    assert "nin_cifar10 in FP32" in (here / "report.html").read_text(encoding="utf-8")


def test_several_bundles_are_compared(cli, here, fp32_bundle, fp16_bundle):
    assert cli("report", fp32_bundle, fp16_bundle, "-o", "both.html").code == 0
    assert "2 bundles compared" in (here / "both.html").read_text(encoding="utf-8")


def test_markdown_goes_to_standard_output(cli, fp32_bundle):
    result = cli("report", fp32_bundle, "--format", "markdown")
    assert result.code == 0
    assert "**PASSED**" in result.out


def test_json_is_one_document_that_keeps_the_published_schema(cli, fp32_bundle, fp16_bundle):
    result = cli("report", fp32_bundle, fp16_bundle, "--format", "json")
    assert [bundle["failures"] for bundle in result.content["bundles"]] == [[], []]
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes())).validate(json.loads(result.out))


@pytest.mark.parametrize("form", ["html", "markdown", "json"])
def test_a_report_of_ours_is_replaced(cli, here, fp32_bundle, fp16_bundle, form):
    assert cli("report", fp32_bundle, "--format", form, "-o", "r").code == 0
    before = (here / "r").read_bytes()
    assert cli("report", fp16_bundle, "--format", form, "-o", "r").code == 0
    assert (here / "r").read_bytes() != before


@pytest.mark.parametrize("content", ["", "<html>my diary</html>", "# notes", '{"kind": "letter"}'])
def test_a_file_that_is_not_ours_is_kept_unless_that_is_forced(cli, here, fp32_bundle, content):
    (here / "report.html").write_text(content)
    result = cli("report", fp32_bundle)
    assert result.code == 3
    assert "report.html exists and is not a report of deploykit's" in result.text
    assert (here / "report.html").read_text() == content
    assert cli("report", fp32_bundle, "--force").code == 0
    assert "<h1>" in (here / "report.html").read_text(encoding="utf-8")


def test_a_folder_in_the_place_of_the_file_is_said(cli, here, fp32_bundle):
    (here / "report.html").mkdir()
    result = cli("report", fp32_bundle, "--force")
    assert result.code == 3
    assert "report.html is a folder" in result.text


@pytest.mark.usefixtures("here")
def test_a_file_in_no_folder_is_said(cli, fp32_bundle):
    result = cli("report", fp32_bundle, "-o", "nowhere/report.html")
    assert result.code == 3
    assert "there is no folder nowhere" in result.text


@pytest.mark.usefixtures("here")
def test_what_is_no_bundle_is_said(cli, tmp_path):
    result = cli("report", tmp_path)
    assert result.code == 3
    assert "is not a bundle" in result.text


@pytest.mark.usefixtures("here")
def test_a_damaged_record_is_a_failed_check(cli, bundle):
    (bundle / "records/latency.json").write_text("{}")
    assert cli("report", bundle).code == 1


@pytest.mark.usefixtures("here")
def test_a_bundle_that_failed_is_shown_with_exit_0(cli, bundle):
    content = json.loads((bundle / "manifest.json").read_bytes())
    content["parity"] |= {"passed": False, "failures": ["far too much noise"]}
    (bundle / "manifest.json").write_text(json.dumps(content))
    result = cli("report", bundle, "--format", "markdown")
    assert result.code == 0
    assert "**FAILED**" in result.out


def test_a_bundle_is_not_changed_by_being_reported(cli, here, bundle, snapshot):
    before = snapshot(bundle)
    cli("report", bundle, "-o", here / "page.html")
    assert snapshot(bundle) == before
