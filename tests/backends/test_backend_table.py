"""The table of backends: names, messages for missing libraries, no other imports of them."""

import importlib.util
from importlib import metadata

import pytest

from deploykit.backends import BACKENDS, create_backend, is_installed
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.extras import install_command, install_remedy


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_resolves_to_a_backend_with_its_name(name):
    if not is_installed(name):
        pytest.skip(f"{name} is not installed: {install_command(BACKENDS[name].extra)}")
    backend = create_backend(name)
    assert backend.name == name
    assert backend.version
    assert 20 in backend.opsets  # the default of an export


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_has_an_install_command(name):
    assert BACKENDS[name].extra in metadata.metadata("deploykit").get_all("Provides-Extra")


@pytest.mark.parametrize("name", ["onnxruntim", "OnnxRuntime", "onnx-runtime"])
def test_an_unknown_name_suggests_the_nearest_one(name):
    with pytest.raises(UsageError, match=f"unknown backend '{name}'; did you mean onnxruntime"):
        create_backend(name)


def test_an_unknown_name_without_similar_ones_lists_all_backends():
    with pytest.raises(UsageError, match="unknown backend 'caffe'; choose from onnxruntime"):
        create_backend("caffe")


@pytest.fixture
def no_onnxruntime(monkeypatch):
    """A machine without onnxruntime."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))


@pytest.mark.usefixtures("no_onnxruntime")
def test_a_missing_backend_is_named_with_its_install_command():
    with pytest.raises(BackendError, match="needs onnxruntime, which is not installed") as caught:
        create_backend("onnxruntime")
    assert caught.value.remedy == install_remedy("cpu")
    assert caught.value.exit_code == 4


@pytest.mark.usefixtures("no_onnxruntime")
def test_an_export_without_its_backend_fails_before_any_work(cli, tmp_path):
    result = cli("export", "nin_cifar10", "--data", "synthetic", "--target", "onnxruntime", "-o", tmp_path / "bundle")
    assert result.code == 4
    assert f"which is not installed. Install it with: {install_command('cpu')}" in result.text
    assert list(tmp_path.iterdir()) == []
