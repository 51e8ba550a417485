"""An engine that failed, or is not needed, is taken out of a bundle; nothing else changes."""

import shutil

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files
from deploykit.bundle.write import engine_tag, pack_engine, remove_engine
from deploykit.core.errors import InputError
from deploykit.core.files import record_file
from deploykit.core.values import SecondaryEngine


@pytest.fixture
def with_engine(fp16_bundle_copy, tmp_path):
    """A bundle with an extra engine that was not run, and that engine's tag."""
    folder, manifest = fp16_bundle_copy, manifests.read_manifest(fp16_bundle_copy)
    (tmp_path / "other.onnx").write_bytes(b"an engine")
    engine = msgspec.structs.replace(
        manifest.engine, backend="openvino", file=record_file(tmp_path, "other.onnx"), caveats=()
    )
    manifest = pack_engine(folder, manifest, SecondaryEngine(engine, "no openvino is here"), tmp_path)
    return folder, manifest, engine_tag(engine)


@pytest.fixture
def fp16_bundle_copy(fp16_bundle, tmp_path):
    return shutil.copytree(fp16_bundle, tmp_path / "bundle")


def test_the_bundle_is_as_it_was_before_the_engine(with_engine, fp16_bundle):
    folder, manifest, tag = with_engine
    assert remove_engine(folder, manifest, tag, None) == manifests.read_manifest(fp16_bundle)
    check_files(folder, manifests.read_manifest(folder))
    assert not (folder / "engines" / tag).exists()


def test_the_primary_engine_is_refused(with_engine):
    folder, manifest, _ = with_engine
    with pytest.raises(InputError, match="primary engine"):
        remove_engine(folder, manifest, engine_tag(manifest.engine), None)


def test_an_unknown_tag_lists_the_engines(with_engine):
    folder, manifest, tag = with_engine
    with pytest.raises(InputError) as error:
        remove_engine(folder, manifest, "tensorrt-10", None)
    assert tag in error.value.remedy
