"""Keeping what was measured, and pages of folders."""

import shutil

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files
from deploykit.core.errors import CheckFailed, InputError
from deploykit.core.values import Bench, SampleAccount, StageParity, Stages, StartUp
from deploykit.workflows import reporting


@pytest.fixture
def manifest(bundle):
    return manifests.read(bundle)


@pytest.fixture
def guilty(manifest):
    """A record of stages with one that broke its bound."""
    bad = StageParity(
        "engine", "openvino", (), manifest.parity.outputs, manifest.parity.tolerance, ("far too much noise",)
    )
    return Stages((bad,), manifest.parity.data)


def test_a_bundle_comes_with_its_report_and_every_duration(bundle, manifest):
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "PASSED" in page
    known = reporting.report([bundle]).bundles[0].records
    assert known.measured.latency == manifest.latency
    assert len(known.measured.durations_ns) == manifest.latency.iterations


def test_the_report_in_a_bundle_is_the_one_that_the_verb_makes(bundle, fp32_bundle):
    assert (fp32_bundle / "report.html").read_text(encoding="utf-8") == reporting.page([fp32_bundle])
    shutil.move(bundle, bundle.with_name(fp32_bundle.name))
    assert reporting.page([bundle.with_name(fp32_bundle.name)]) == reporting.page([fp32_bundle])


def test_what_is_kept_stands_in_the_report(bundle, guilty):
    made = reporting.keep(bundle, guilty)
    check_files(bundle, made)
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "FAILED" in page
    assert "stage engine: far too much noise" in page


def test_what_was_kept_before_stays(bundle, guilty, manifest):
    reporting.keep(bundle, guilty)
    reporting.keep(bundle, SampleAccount((), (), manifest.parity.data))
    known = reporting.report([bundle]).bundles[0].records
    assert known.stages == guilty
    assert known.samples is not None
    assert known.measured is not None


def test_keeping_again_replaces(bundle, guilty):
    reporting.keep(bundle, guilty)
    reporting.keep(bundle, msgspec.structs.replace(guilty, stages=()))
    assert reporting.report([bundle]).bundles[0].failures == ()


def test_benchmarks_of_other_engines_are_kept_beside_each_other(bundle, manifest):
    measured = reporting.report([bundle]).bundles[0].records.measured
    for library in ("onnxruntime 1.0", "openvino 2.0", "onnxruntime 1.1"):
        start = StartUp(1.0, 1.0, 1.0)
        reporting.keep(bundle, Bench("n", "fp32", "python", library, "model.onnx", (measured,), None, start, 1))
    report = reporting.report([bundle])
    assert [bench.library for bench in report.bundles[0].records.benches] == ["onnxruntime 1.1", "openvino 2.0"]
    assert (bundle / "report.html").read_text(encoding="utf-8") == reporting.page([bundle])
    assert manifests.read(bundle).parity == manifest.parity


def test_a_bundle_from_before_there_were_reports_can_be_reported(bundle, manifest):
    for path in ("report.html", "records/measured.json", "records/stages.json"):
        (bundle / path).unlink()
    files = {path: file for path, file in manifest.files.items() if (bundle / path).exists()}
    (bundle / "manifest.json").write_bytes(manifests.encode(msgspec.structs.replace(manifest, files=files)))
    assert "exported before durations were kept" in reporting.page([bundle])


def test_a_damaged_record_stops_the_report(bundle):
    (bundle / "records/measured.json").write_text("{}")
    with pytest.raises(CheckFailed, match=r"records/measured\.json"):
        reporting.page([bundle])


def test_a_folder_that_is_no_bundle_is_said(tmp_path):
    with pytest.raises(InputError, match="is not a bundle"):
        reporting.page([tmp_path])


def test_bundles_of_one_name_are_told_apart_by_their_paths(bundle, tmp_path):
    other = shutil.copytree(bundle, tmp_path / "elsewhere" / "bundle")
    assert [each.name for each in reporting.report([bundle, other]).bundles] == [str(bundle), str(other)]
