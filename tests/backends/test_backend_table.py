"""The table of backends: found by name, explained where they are missing, imported by nobody else."""

import importlib.util

import pytest

from deploykit.backends import BACKENDS, backend, installed
from deploykit.core.errors import BackendError, UsageError


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_leads_to_a_backend_of_its_name(name):
    if not installed(name):
        pytest.skip(f"{name} is not installed: {BACKENDS[name].install}")
    found = backend(name)
    assert found.name == name
    assert found.version
    assert 20 in found.opsets  # what an export has by default


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_says_how_it_is_installed(name):
    assert BACKENDS[name].install.startswith("pip install 'deploykit[")


@pytest.mark.parametrize("name", ["onnxruntim", "OnnxRuntime", "onnx-runtime"])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    with pytest.raises(UsageError, match=f"unknown backend '{name}'; did you mean onnxruntime"):
        backend(name)


def test_a_name_like_no_other_is_answered_with_all_there_are():
    with pytest.raises(UsageError, match="unknown backend 'caffe'; choose from onnxruntime"):
        backend("caffe")


@pytest.fixture
def absent(monkeypatch):
    """A machine without onnxruntime."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))


@pytest.mark.usefixtures("absent")
def test_a_backend_that_is_not_installed_is_named_with_the_command_that_installs_it():
    with pytest.raises(BackendError, match="needs onnxruntime, which is not installed") as caught:
        backend("onnxruntime")
    assert caught.value.remedy == "pip install 'deploykit[cpu]'"
    assert caught.value.exit_code == 4


@pytest.mark.usefixtures("absent")
def test_an_export_without_its_backend_fails_before_any_work(cli, tmp_path):
    result = cli("export", "nin_cifar10", "--data", "synthetic", "--target", "onnxruntime", "-o", tmp_path / "bundle")
    assert result.code == 4
    assert "which is not installed. pip install 'deploykit[cpu]'" in result.text
    assert list(tmp_path.iterdir()) == []
