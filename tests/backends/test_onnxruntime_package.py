"""The version of ONNX Runtime is that of the files that are loaded, whatever metadata lies beside them."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import onnxruntime
import pytest

from deploykit.backends import onnxruntime_package
from deploykit.backends.onnxruntime import OnnxRuntime
from deploykit.backends.onnxruntime_package import find_package
from deploykit.core.errors import BackendError


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, record: str | None) -> None:
    """A module onnxruntime in `folder`, with that record of its package."""
    (folder / "capi").mkdir()
    if record is not None:
        (folder / onnxruntime_package.RECORD).write_text(record)
    spec = ModuleSpec("onnxruntime", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(onnxruntime_package.importlib.util, "find_spec", lambda _: spec)


def test_the_version_is_that_of_the_module() -> None:
    assert OnnxRuntime().version == find_package().version == onnxruntime.__version__


def test_the_package_that_was_installed_last_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "package_name = 'onnxruntime-gpu'\n__version__ = '9.9'\ncuda_version = '13.0'\n")
    assert find_package() == ("onnxruntime-gpu", "9.9", False)


def test_the_cuda_provider_is_a_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "package_name = 'onnxruntime-gpu'\n__version__ = '9.9'\n")
    (tmp_path / onnxruntime_package.PROVIDER_FILES[0]).touch()
    assert find_package().has_cuda_provider


def test_without_either_package_the_remedy_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_package.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match="ONNX Runtime is not installed") as caught:
        find_package()
    assert "[cpu]" in caught.value.remedy


@pytest.mark.parametrize("record", [None, "version = 1"])
def test_a_damaged_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str | None) -> None:
    install(tmp_path, monkeypatch, record)
    with pytest.raises(BackendError, match="is damaged"):
        find_package()
