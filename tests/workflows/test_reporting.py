"""Saving measurements in bundles, and reporting on folders."""

import shutil

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files
from deploykit.core.errors import CheckFailed, InputError
from deploykit.core.values import Bench, SampleDifferences, StageParity, Stages, StartupTimes
from deploykit.workflows import reporting


@pytest.fixture
def manifest(bundle):
    return manifests.read_manifest(bundle)


@pytest.fixture
def failing_stages(manifest):
    """A record of stages, one of which fails."""
    bad = StageParity(
        "engine", "openvino", (), manifest.parity.outputs, manifest.parity.tolerance, ("far too much noise",)
    )
    return Stages((bad,), manifest.parity.data)


def test_a_bundle_contains_its_report_and_every_duration(bundle, manifest):
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "PASSED" in page
    known = reporting.collect_report([bundle]).bundles[0].records
    assert known.measurement.latency == manifest.latency
    assert len(known.measurement.durations_ns) == manifest.latency.iterations


def test_the_report_in_a_bundle_equals_that_of_the_report_verb(bundle, fp32_bundle):
    assert (fp32_bundle / "report.html").read_text(encoding="utf-8") == reporting.render_page([fp32_bundle])
    shutil.move(bundle, bundle.with_name(fp32_bundle.name))
    assert reporting.render_page([bundle.with_name(fp32_bundle.name)]) == reporting.render_page([fp32_bundle])


def test_saved_records_appear_in_the_report(bundle, failing_stages):
    saved = reporting.save_record(bundle, failing_stages)
    check_files(bundle, saved)
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "FAILED" in page
    assert "stage engine: far too much noise" in page


def test_saving_a_record_preserves_the_others(bundle, failing_stages, manifest):
    reporting.save_record(bundle, failing_stages)
    reporting.save_record(bundle, SampleDifferences((), (), manifest.parity.data))
    known = reporting.collect_report([bundle]).bundles[0].records
    assert known.stages == failing_stages
    assert known.samples is not None
    assert known.measurement is not None


def test_saving_a_record_again_replaces_it(bundle, failing_stages):
    reporting.save_record(bundle, failing_stages)
    reporting.save_record(bundle, msgspec.structs.replace(failing_stages, stages=()))
    assert reporting.collect_report([bundle]).bundles[0].failures == ()


def test_benchmarks_of_several_engines_coexist(bundle, manifest):
    measured = reporting.collect_report([bundle]).bundles[0].records.measurement
    for library in ("onnxruntime 1.0", "openvino 2.0", "onnxruntime 1.1"):
        start = StartupTimes(1.0, 1.0, 1.0)
        reporting.save_record(bundle, Bench("n", "fp32", "python", library, "model.onnx", (measured,), None, start, 1))
    report = reporting.collect_report([bundle])
    assert [bench.library for bench in report.bundles[0].records.benches] == ["onnxruntime 1.1", "openvino 2.0"]
    assert (bundle / "report.html").read_text(encoding="utf-8") == reporting.render_page([bundle])
    assert manifests.read_manifest(bundle).parity == manifest.parity


def test_a_bundle_without_records_can_be_reported(bundle, manifest):
    for path in ("report.html", "records/latency.json", "records/stages.json"):
        (bundle / path).unlink()
    files = {path: file for path, file in manifest.files.items() if (bundle / path).exists()}
    (bundle / "manifest.json").write_bytes(manifests.encode_manifest(msgspec.structs.replace(manifest, files=files)))
    assert "durations of single calls are not in this bundle" in reporting.render_page([bundle])


def test_a_damaged_record_stops_the_report(bundle):
    (bundle / "records/latency.json").write_text("{}")
    with pytest.raises(CheckFailed, match=r"records/latency\.json"):
        reporting.render_page([bundle])


def test_a_folder_that_is_not_a_bundle_is_an_error(tmp_path):
    with pytest.raises(InputError, match="is not a bundle"):
        reporting.render_page([tmp_path])


def test_bundles_with_equal_names_are_named_by_path(bundle, tmp_path):
    other = shutil.copytree(bundle, tmp_path / "elsewhere" / "bundle")
    assert [bundle_report.name for bundle_report in reporting.collect_report([bundle, other]).bundles] == [
        str(bundle),
        str(other),
    ]
