"""`deploykit report`: pages and documents of bundles, and files that they do not overwrite."""

import json
from pathlib import Path

import jsonschema
import pytest

from deploykit.report import bundle_document

SCHEMA = Path(bundle_document.__file__).with_name("schema.json")


@pytest.fixture
def current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_page_is_written_to_the_current_folder(cli, current_folder, fp32_bundle):
    result = cli("report", fp32_bundle)
    assert result.code == 0, result.err
    assert result.out == ""
    assert "report.html written" in result.err
    assert "nin_cifar10 in FP32" in (current_folder / "report.html").read_text(encoding="utf-8")


def test_several_bundles_are_compared(cli, current_folder, fp32_bundle, fp16_bundle):
    assert cli("report", fp32_bundle, fp16_bundle, "-o", "both.html").code == 0
    assert "2 bundles compared" in (current_folder / "both.html").read_text(encoding="utf-8")


def test_markdown_is_written_to_stdout(cli, fp32_bundle):
    result = cli("report", fp32_bundle, "--format", "markdown")
    assert result.code == 0
    assert "**PASSED**" in result.out


def test_json_is_one_document_that_conforms_to_the_published_schema(cli, fp32_bundle, fp16_bundle):
    result = cli("report", fp32_bundle, fp16_bundle, "--format", "json")
    assert [bundle["failures"] for bundle in result.content["bundles"]] == [[], []]
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes())).validate(json.loads(result.out))


@pytest.mark.parametrize("form", ["html", "markdown", "json"])
def test_an_existing_report_is_replaced(cli, current_folder, fp32_bundle, fp16_bundle, form):
    assert cli("report", fp32_bundle, "--format", form, "-o", "r").code == 0
    before = (current_folder / "r").read_bytes()
    assert cli("report", fp16_bundle, "--format", form, "-o", "r").code == 0
    assert (current_folder / "r").read_bytes() != before


@pytest.mark.parametrize("content", ["", "<html>my diary</html>", "# notes", '{"kind": "letter"}'])
def test_a_foreign_file_is_not_overwritten_without_force(cli, current_folder, fp32_bundle, content):
    (current_folder / "report.html").write_text(content)
    result = cli("report", fp32_bundle)
    assert result.code == 3
    assert "report.html exists and is not a report of deploykit's" in result.text
    assert (current_folder / "report.html").read_text() == content
    assert cli("report", fp32_bundle, "--force").code == 0
    assert "<h1>" in (current_folder / "report.html").read_text(encoding="utf-8")


def test_a_folder_at_the_output_path_is_an_error(cli, current_folder, fp32_bundle):
    (current_folder / "report.html").mkdir()
    result = cli("report", fp32_bundle, "--force")
    assert result.code == 3
    assert "report.html is a folder" in result.text


@pytest.mark.usefixtures("current_folder")
def test_a_missing_parent_folder_is_an_error(cli, fp32_bundle):
    result = cli("report", fp32_bundle, "-o", "nowhere/report.html")
    assert result.code == 3
    assert "there is no folder nowhere" in result.text


@pytest.mark.usefixtures("current_folder")
def test_a_path_that_is_not_a_bundle_is_an_error(cli, tmp_path):
    result = cli("report", tmp_path)
    assert result.code == 3
    assert "is not a bundle" in result.text


@pytest.mark.usefixtures("current_folder")
def test_a_damaged_record_is_a_failed_check(cli, bundle):
    (bundle / "records/latency.json").write_text("{}")
    assert cli("report", bundle).code == 1


@pytest.mark.usefixtures("current_folder")
def test_a_report_of_a_failed_bundle_exits_with_0(cli, bundle):
    content = json.loads((bundle / "manifest.json").read_bytes())
    content["parity"] |= {"passed": False, "failures": ["far too much noise"]}
    (bundle / "manifest.json").write_text(json.dumps(content))
    result = cli("report", bundle, "--format", "markdown")
    assert result.code == 0
    assert "**FAILED**" in result.out


def test_reporting_leaves_the_bundle_unchanged(cli, current_folder, bundle, snapshot):
    before = snapshot(bundle)
    cli("report", bundle, "-o", current_folder / "page.html")
    assert snapshot(bundle) == before
