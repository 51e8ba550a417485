"""Cache keys depend on exactly what determines a result."""

import shutil

import msgspec
import pytest

from deploykit.core.errors import InputError
from deploykit.core.values import (
    BatchRange,
    BudgetOptions,
    BuildOptions,
    CalibrationOptions,
    ExportOptions,
    ExportRequest,
    ImageOverrides,
    InputSpec,
    WeightsSource,
)
from deploykit.workflows import cache_keys

REQUEST = ExportRequest("nin_cifar10", "fp32", WeightsSource("random"), data="synthetic", samples=4)

EVERYWHERE = {
    "model": "nin_imagenet",
    "weights": WeightsSource("random", seed=1),
    "arguments": ("num_classes=5",),
    "head": "probabilities",
    "preprocess_in": "graph",
    "image": ImageOverrides(64, 64),
    "inputs": (InputSpec("x", (3,), "float32"),),
    "options": ExportOptions(opset=17),
}
JUDGING = {
    "precision": "fp16",
    "data": "photos",
    "samples": 8,
    "target": "tensorrt",
    "extra_engines": ("tensorrt-rtx",),
    "optional_engines": ("tensorrt-rtx",),
    "build": BuildOptions(workspace_mib=64),
    "io": "fp16",
    "calibration": CalibrationOptions("photos"),
    "budget": BudgetOptions(max_drop=0.5),
    "output_kinds": {"logits": "embedding"},
    "fallback_targets": ("openvino",),
}


def changed_request(**changes):
    if {"calibration", "budget"} & changes.keys():
        changes = {"precision": "int8", "calibration": CalibrationOptions("synthetic"), **changes}
    return msgspec.structs.replace(REQUEST, **changes)


def test_every_field_of_a_request_is_tested():
    assert {*EVERYWHERE, *JUDGING} == set(ExportRequest.__struct_fields__)


@pytest.mark.parametrize(("field", "value"), {**EVERYWHERE, **JUDGING}.items())
def test_the_bundle_key_depends_on_every_field(field, value):
    assert cache_keys.bundle_key(changed_request(**{field: value})) != cache_keys.bundle_key(REQUEST)


@pytest.mark.parametrize(("field", "value"), EVERYWHERE.items())
def test_the_graph_key_depends_on_every_field_of_the_export(field, value):
    assert cache_keys.graph_key(changed_request(**{field: value})) != cache_keys.graph_key(REQUEST)


@pytest.mark.parametrize(("field", "value"), JUDGING.items())
def test_the_graph_key_does_not_depend_on_later_stages(field, value):
    assert cache_keys.graph_key(changed_request(**{field: value})) == cache_keys.graph_key(REQUEST)


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(batch=BatchRange(1, 1, 1)),
        ExportOptions(batch=BatchRange(1, 4, 32)),
        ExportOptions(exporter="torchscript"),
    ],
)
def test_the_graph_key_depends_on_every_export_option(options):
    assert cache_keys.graph_key(changed_request(options=options)) != cache_keys.graph_key(REQUEST)


@pytest.mark.parametrize("key", [cache_keys.bundle_key, cache_keys.graph_key])
def test_equal_requests_have_equal_keys(key):
    assert key(msgspec.convert(msgspec.to_builtins(REQUEST), ExportRequest)) == key(REQUEST)


@pytest.mark.parametrize("key", [cache_keys.bundle_key, cache_keys.graph_key])
@pytest.mark.parametrize("part", ["code_digest", "list_libraries"])
def test_keys_depend_on_our_code_and_on_the_libraries(monkeypatch, key, part):
    before = key(REQUEST)
    monkeypatch.setattr(cache_keys, part, lambda: "another")
    assert key(REQUEST) != before


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    return path


def of_file(path):
    return changed_request(weights=WeightsSource("file", path=str(path)))


@pytest.mark.parametrize("key", [cache_keys.bundle_key, cache_keys.graph_key])
def test_a_checkpoint_is_identified_by_its_content(key, checkpoint):
    before = key(of_file(checkpoint))
    checkpoint.write_bytes(b"two")
    assert key(of_file(checkpoint)) != before


@pytest.mark.parametrize("key", [cache_keys.bundle_key, cache_keys.graph_key])
def test_moving_a_checkpoint_keeps_the_key(key, checkpoint, tmp_path):
    moved = shutil.copy(checkpoint, tmp_path / "moved.pt")
    assert key(of_file(moved)) == key(of_file(checkpoint))


def test_a_missing_checkpoint_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="there are no weights"):
        cache_keys.bundle_key(of_file(tmp_path / "nowhere.pth"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"one")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "cat" / "1.png").write_bytes(b"another"),
        lambda folder: (folder / "cat" / "1.png").rename(folder / "cat" / "2.png"),
        lambda folder: (folder / "cat" / "1.png").unlink(),
        lambda folder: (folder / "2.png").write_bytes(b"two"),
    ],
    ids=["changed", "renamed", "removed", "added"],
)
def test_a_folder_of_images_is_identified_by_its_files(images, change):
    request = changed_request(data=str(images))
    bundle, graph = cache_keys.bundle_key(request), cache_keys.graph_key(request)
    change(images)
    assert cache_keys.bundle_key(request) != bundle
    assert cache_keys.graph_key(request) == graph


@pytest.mark.parametrize("name", ["synthetic", "nowhere"])
def test_a_named_set_and_a_missing_path_are_identified_by_name(name):
    assert cache_keys.data_key(name) == name


def test_a_named_set_is_never_a_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cache_keys.data_key("photos") == "photos"
    assert cache_keys.data_key("./photos") != "./photos"


def test_released_and_random_weights_have_different_keys():
    assert cache_keys.graph_key(changed_request(weights=WeightsSource("imagenet"))) != cache_keys.graph_key(REQUEST)
