"""The table of backends: names, messages for missing libraries, no other imports of them."""

import importlib.util
from importlib import metadata

import pytest

from deploykit.backends import BACKENDS, create_backend, is_installed
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.extras import install_command, install_remedy


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_leads_to_a_backend_of_its_name(name):
    if not is_installed(name):
        pytest.skip(f"{name} is not installed: {install_command(BACKENDS[name].extra)}")
    found = create_backend(name)
    assert found.name == name
    assert found.version
    assert 20 in found.opsets  # what an export has by default


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_says_how_it_is_installed(name):
    assert BACKENDS[name].extra in metadata.metadata("deploykit").get_all("Provides-Extra")


@pytest.mark.parametrize("name", ["onnxruntim", "OnnxRuntime", "onnx-runtime"])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    with pytest.raises(UsageError, match=f"unknown backend '{name}'; did you mean onnxruntime"):
        create_backend(name)


def test_an_unknown_name_without_similar_ones_lists_all_backends():
    with pytest.raises(UsageError, match="unknown backend 'caffe'; choose from onnxruntime"):
        create_backend("caffe")


@pytest.fixture
def absent(monkeypatch):
    """A machine without onnxruntime."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))


@pytest.mark.usefixtures("absent")
def test_a_backend_that_is_not_installed_is_named_with_the_command_that_installs_it():
    with pytest.raises(BackendError, match="needs onnxruntime, which is not installed") as caught:
        create_backend("onnxruntime")
    assert caught.value.remedy == install_remedy("cpu")
    assert caught.value.exit_code == 4


@pytest.mark.usefixtures("absent")
def test_an_export_without_its_backend_fails_before_any_work(cli, tmp_path):
    result = cli("export", "nin_cifar10", "--data", "synthetic", "--target", "onnxruntime", "-o", tmp_path / "bundle")
    assert result.code == 4
    assert f"which is not installed. Install it with: {install_command('cpu')}" in result.text
    assert list(tmp_path.iterdir()) == []
