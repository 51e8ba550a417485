"""Records in a bundle: ordinary files, one of each kind, written atomically."""

import os
import shutil

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle import records, write
from deploykit.bundle.verify import check_files
from deploykit.core import files
from deploykit.core.errors import CheckFailed, InputError
from deploykit.core.values import (
    Bench,
    DataRecord,
    Latency,
    Measurement,
    Records,
    SampleDifferences,
    Stages,
    StartupTimes,
)

DATA = DataRecord("photos", "evaluation", 4, True, False, "0" * 64)
LATENCY = Latency(1, 3, 2, 1.0, 2.0, 2.0, 2.0, 1.5, 0.5, 600.0, True)
MEASURED = Measurement(LATENCY, 2.0, (1_000_000, 2_000_000, 2_000_000))


def bench(runtime="python", library="onnxruntime 1.31.1", file="model.onnx"):
    return Bench("nin_cifar10", "fp32", runtime, library, file, (MEASURED,), None, StartupTimes(1.0, 2.0, 3.0), 2**20)


def add_record(folder, record):
    manifest = manifests.read_manifest(folder)
    return write.update_bundle(
        folder, manifest, {records.record_path(record): records.encode_record(record)}, lambda _: b"<p>new</p>"
    )


@pytest.mark.parametrize(
    "record",
    [MEASURED, Stages((), DATA), SampleDifferences((), (), DATA), bench()],
    ids=lambda each: type(each).__name__,
)
def test_records_round_trip(bundle, record):
    add_record(bundle, record)
    read = records.read_records(bundle, manifests.read_manifest(bundle))
    known = (read.measurement, read.stages, read.layers, read.samples, *read.benches)
    assert record in known


def test_a_bundle_without_records_has_none(bundle):
    manifest = manifests.read_manifest(bundle)
    older = {path: file for path, file in manifest.files.items() if not path.startswith(("records/", "report"))}
    assert records.read_records(bundle, msgspec.structs.replace(manifest, files=older)) == Records()


def test_records_are_files_of_the_bundle_with_digests(bundle):
    manifest = add_record(bundle, Stages((), DATA))
    assert manifest == manifests.read_manifest(bundle)
    assert manifest.files["records/stages.json"].sha256 == files.hash_file(bundle / "records/stages.json")
    check_files(bundle, manifest)


def test_the_report_is_rendered_from_the_manifest_of_all_other_files(bundle):
    recorded = []

    def page(manifest):
        recorded.append(set(manifest.files))
        return b"<p>new</p>"

    write.update_bundle(
        bundle, manifests.read_manifest(bundle), {"records/stages.json": records.encode_record(Stages((), DATA))}, page
    )
    assert (bundle / "report.html").read_bytes() == b"<p>new</p>"
    assert "records/stages.json" in recorded[0]
    assert "report.html" not in recorded[0]


def test_all_other_files_are_unchanged(bundle):
    before = {path: path.read_bytes() for path in bundle.rglob("*.np*") if path.is_file()}
    before[bundle / "model.onnx"] = (bundle / "model.onnx").read_bytes()
    add_record(bundle, MEASURED)
    assert {path: path.read_bytes() for path in before} == before


def test_large_files_are_linked_not_copied(bundle):
    before = (bundle / "model.onnx").stat().st_ino
    add_record(bundle, Stages((), DATA))
    assert (bundle / "model.onnx").stat().st_ino == before
    assert (bundle / "model.onnx").stat().st_nlink == 1


def test_a_symlinked_bundle_is_not_written_through(bundle, tmp_path):
    add_record(bundle, Stages((), DATA))
    shutil.copytree(bundle, tmp_path / "twin", copy_function=os.link)
    add_record(bundle, Stages((), DATA, ("changed",)))
    check_files(tmp_path / "twin", manifests.read_manifest(tmp_path / "twin"))
    assert records.read_records(tmp_path / "twin", manifests.read_manifest(tmp_path / "twin")).stages.caveats == ()


def test_a_file_system_without_links_gets_copies(bundle, monkeypatch):
    def refused(*_args, **_kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    check_files(bundle, add_record(bundle, MEASURED))


def test_an_interrupted_update_leaves_the_bundle_unchanged(bundle, snapshot):
    before = snapshot(bundle)

    def page(_manifest):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write.update_bundle(
            bundle,
            manifests.read_manifest(bundle),
            {"records/stages.json": records.encode_record(Stages((), DATA))},
            page,
        )
    assert snapshot(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_parent_folder_that_is_not_writable_is_reported(bundle, monkeypatch):
    def refused(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkdtemp", refused)
    with pytest.raises(InputError, match="Free space on the bundle's disk"):
        add_record(bundle, MEASURED)


@pytest.mark.parametrize(
    ("record", "path"),
    [
        (MEASURED, "records/latency.json"),
        (bench(), "records/bench-python-onnxruntime.json"),
        (bench("cpp", "ONNX Runtime 1.31.1"), "records/bench-cpp-onnx-runtime.json"),
        (bench("cpp", "TensorRT 11", "engines/tensorrt-11-sm89/x.plan"), "records/bench-cpp-tensorrt-11-sm89.json"),
        (bench(library="../../etc/passwd 1"), "records/bench-python-etc-passwd.json"),
    ],
)  # fmt: skip
def test_the_path_of_a_record_depends_on_its_kind(record, path):
    assert records.record_path(record) == path
    assert manifests.stays_inside(path)


def test_a_benchmark_replaces_the_previous_one_of_the_same_engine(bundle):
    add_record(bundle, bench())
    add_record(bundle, bench(library="onnxruntime 2.0.0"))
    add_record(bundle, bench("cpp"))
    benches = records.read_records(bundle, manifests.read_manifest(bundle)).benches
    assert [(record.runtime, record.library) for record in benches] == [
        ("cpp", "onnxruntime 1.31.1"),
        ("python", "onnxruntime 2.0.0"),
    ]


def test_a_changed_record_is_refused(bundle):
    add_record(bundle, MEASURED)
    path = bundle / "records/latency.json"
    path.write_bytes(path.read_bytes().replace(b"1000000", b"1000001"))
    with pytest.raises(CheckFailed, match=r"records/latency\.json differs from its recorded SHA-256"):
        records.read_records(bundle, manifests.read_manifest(bundle))


def test_a_missing_record_is_refused(bundle):
    add_record(bundle, MEASURED)
    (bundle / "records/latency.json").unlink()
    with pytest.raises(CheckFailed, match=r"records/latency\.json is missing"):
        records.read_records(bundle, manifests.read_manifest(bundle))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"colour": "blue"}', b"\xff"])
def test_a_file_that_is_not_a_record_is_refused(bundle, content):
    manifest = write.update_bundle(
        bundle, manifests.read_manifest(bundle), {"records/layers.json": content}, lambda _: b""
    )
    with pytest.raises(CheckFailed, match=r"records/layers\.json is not a record that this deploykit can read"):
        records.read_records(bundle, manifest)


def test_a_record_of_an_unknown_kind_is_preserved(bundle):
    before = records.read_records(bundle, manifests.read_manifest(bundle))
    manifest = write.update_bundle(
        bundle, manifests.read_manifest(bundle), {"records/weather.json": b"{}"}, lambda _: b""
    )
    assert records.read_records(bundle, manifest) == before
    check_files(bundle, manifest)
