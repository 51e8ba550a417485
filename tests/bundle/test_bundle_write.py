"""Writing bundles: complete records, atomic writes, and no overwriting without force."""

import json

import msgspec
import numpy as np
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files
from deploykit.bundle.write import require_replaceable, write_bundle, write_golden
from deploykit.core.errors import InputError
from deploykit.core.files import hash_file


@pytest.fixture
def manifest(fp32_bundle):
    return msgspec.structs.replace(manifests.read_manifest(fp32_bundle), files={}, labels=None)


@pytest.fixture
def source(bundle):
    """The output folder of a stage: the graph and golden vectors."""
    (bundle / "manifest.json").unlink()
    return bundle


def test_every_file_is_recorded_with_its_digest(manifest, source, tmp_path):
    written = write_bundle(tmp_path / "new", manifest, source, source, ())
    assert set(written.files) == {"model.onnx", "golden/in.input.npy", "golden/out.logits.npy"}
    for path, file in written.files.items():
        assert (file.path, file.sha256) == (path, hash_file(tmp_path / "new" / path))
        assert file.bytes == (tmp_path / "new" / path).stat().st_size


def test_the_returned_manifest_is_the_written_one(manifest, source, tmp_path):
    written = write_bundle(tmp_path / "new", manifest, source, source, ())
    assert manifests.read_manifest(tmp_path / "new") == written
    check_files(tmp_path / "new", written)


def test_labels_are_one_per_line_and_part_of_the_bundle(manifest, source, tmp_path):
    written = write_bundle(tmp_path / "new", manifest, source, source, ("Katze", "Hündchen", "小鸟"))
    assert (written.labels, written.files["labels.txt"].path) == ("labels.txt", "labels.txt")
    assert (tmp_path / "new" / "labels.txt").read_text(encoding="utf-8") == "Katze\nHündchen\n小鸟\n"


def test_external_data_is_copied_with_the_graph(manifest, source, tmp_path):
    (source / "model.onnx.data").write_bytes(b"weights")
    written = write_bundle(tmp_path / "new", manifest, source, source, ())
    assert (tmp_path / "new" / "model.onnx.data").read_bytes() == b"weights"
    assert "model.onnx.data" in written.files


def test_no_other_file_of_the_source_folder_is_copied(manifest, source, tmp_path):
    (source / "entry.json").write_text("{}")
    assert "entry.json" not in write_bundle(tmp_path / "new", manifest, source, source, ()).files


def test_an_existing_bundle_is_replaced_atomically(manifest, source, tmp_path):
    write_bundle(tmp_path / "new", manifest, source, source, ("a", "b"))
    write_bundle(tmp_path / "new", manifest, source, source, ())
    assert not (tmp_path / "new" / "labels.txt").exists()


def test_a_failure_preserves_the_existing_bundle(manifest, source, tmp_path):
    write_bundle(tmp_path / "new", manifest, source, source, ())
    before = (tmp_path / "new" / "manifest.json").read_bytes()
    (source / "golden" / "in.input.npy").unlink()
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "new", manifest, source, source, ("a",))
    assert (tmp_path / "new" / "manifest.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "new"}


def test_golden_vectors_are_plain_contiguous_arrays(tmp_path):
    transposed = np.arange(12, dtype=np.float32).reshape(3, 4).T
    golden = write_golden(tmp_path, {"input": transposed}, {"logits": np.ones((4, 2), np.float32)})
    assert (golden.inputs, golden.outputs, golden.count) == (
        {"input": "golden/in.input.npy"},
        {"logits": "golden/out.logits.npy"},
        4,
    )
    loaded = np.load(tmp_path / golden.inputs["input"], allow_pickle=False)
    assert loaded.flags.c_contiguous
    assert np.array_equal(loaded, transposed)


# ── Replacement ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("force", [False, True])
def test_a_free_name_and_an_empty_folder_are_accepted(tmp_path, force):
    (tmp_path / "empty").mkdir()
    require_replaceable(tmp_path / "deep" / "down" / "new", force)
    require_replaceable(tmp_path / "empty", force)


def test_a_bundle_is_replaced_only_with_force(bundle):
    require_replaceable(bundle, force=True)
    with pytest.raises(InputError, match="already holds a bundle of a different export"):
        require_replaceable(bundle, force=False)


def test_a_bundle_of_another_schema_version_is_recognized(bundle):
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "schema_version": 3, "more": {}}))
    require_replaceable(bundle, force=True)


@pytest.mark.parametrize(
    "content",
    [b'{"manifest_version": 3}', b"{}", b"[]", b"", b"\xff", b'{"schema_version": 1}'],
    ids=["a browser extension's", "an empty one", "a list", "nothing", "no text", "another tool's"],
)
def test_a_manifest_of_another_tool_is_not_a_bundle(tmp_path, content):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="exists and is not a bundle"):
        require_replaceable(folder, force=True)
