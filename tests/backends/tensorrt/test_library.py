"""The modules of TensorRT, and every kind of import failure."""

import sys
from pathlib import Path

import pytest

from deploykit.backends.tensorrt.library import PACKAGES, LibraryName, import_library, library_version
from deploykit.core.errors import BackendError
from deploykit.core.extras import install_command


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a package `tensorrt` with that code first on the path, as pip would; without code, a folder of stubs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    def put(code: str | None, recorded: str | None = None) -> None:
        (tmp_path / "tensorrt").mkdir()
        if code is None:
            monkeypatch.setattr(
                sys, "path", [str(tmp_path)]
            )  # another TensorRT later on the path would take precedence over a folder
        else:
            (tmp_path / "tensorrt" / "__init__.py").write_text(code)
        if recorded is not None:
            info = tmp_path / f"tensorrt-{recorded}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {recorded}\n")

    yield put
    sys.modules.pop("tensorrt", None)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file:\\n  No such file or directory')",
            "libnvinfer.so.10: cannot open shared object file: No such file or directory.",
        ),
        ("import ctypes; ctypes.CDLL('libnvinfer.so.0')", "libnvinfer.so.0: cannot open shared object file"),
        ("import tensorrt_bindings_that_are_missing", "No module named 'tensorrt_bindings_that_are_missing'"),
        ("raise RuntimeError('the wheel for this platform is a placeholder.')", "is a placeholder."),
        ("raise AttributeError", "AttributeError."),
    ],
)
def test_a_library_that_cannot_be_imported_is_quoted_in_one_line(install, code: str, told: str) -> None:
    install(code)
    with pytest.raises(BackendError) as raised:
        import_library("tensorrt")
    assert raised.value.what.startswith("TensorRT is installed but cannot be imported: ")
    assert told in raised.value.what
    assert "\n" not in raised.value.what
    assert install_command("gpu") in raised.value.remedy
    assert "python3-libnvinfer" in raised.value.remedy


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_library_gives_the_install_command(name: LibraryName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, PACKAGES[name].module, raising=False)
    with pytest.raises(BackendError, match=r"is not installed\. Install it with:\n  \S+ -m pip install"):
        import_library(name)


def test_type_stubs_do_not_count_as_the_library(install) -> None:
    install(None)
    with pytest.raises(BackendError, match="its module tensorrt is empty"):
        import_library("tensorrt")


@pytest.mark.parametrize("old", ["8.5.3.1", "8.2.1", "7.1.3.0"])
def test_versions_before_8_6_are_refused(install, old: str) -> None:
    install(f"__version__ = {old!r}\nclass Builder: pass")
    with pytest.raises(BackendError, match=rf"TensorRT {old} is too old: deploykit needs 8\.6 or later"):
        import_library("tensorrt")


@pytest.mark.parametrize("good", ["8.6.1", "10.3.0", "10.13.3.9", "11.4.0.106"])
def test_later_versions_are_accepted(install, good: str) -> None:
    install(f"__version__ = {good!r}\nclass Builder: pass")
    assert import_library("tensorrt").__version__ == good
    assert library_version("tensorrt") == good


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("said", ["10.13.3.9", "10.13.3.9.post1"])
@pytest.mark.parametrize("recorded", ["10.13.3.9", "10.13.3.9.post1", "10.13.3.9.post12"])
def test_a_repacked_wheel_has_the_same_version(install, said: str, recorded: str, imported: bool) -> None:
    install(f"__version__ = {said!r}\nclass Builder: pass", recorded)
    if imported:
        import_library("tensorrt")
    assert library_version("tensorrt") == "10.13.3.9"
    assert ("tensorrt" in sys.modules) == imported


def test_the_version_is_read_without_importing(install) -> None:
    install("raise ImportError('libnvinfer.so.10')", recorded="10.3.0")
    assert library_version("tensorrt") == "10.3.0"
    assert "tensorrt" not in sys.modules


def test_the_version_of_an_imported_module_takes_precedence(install) -> None:
    install("__version__ = '10.3.1'\nclass Builder: pass", recorded="10.3.0")
    import_library("tensorrt")
    assert library_version("tensorrt") == "10.3.1"


def test_tensorrt_rtx_reports_the_same_version_from_module_and_metadata(process_free_version: str) -> None:
    assert import_library("tensorrt-rtx").__version__ == process_free_version


@pytest.fixture
def process_free_version(monkeypatch: pytest.MonkeyPatch) -> str:
    """The version of TensorRT-RTX, from pip's metadata."""
    module = pytest.importorskip("tensorrt_rtx")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "tensorrt_rtx")
        recorded = library_version("tensorrt-rtx")
    assert sys.modules["tensorrt_rtx"] is module
    return recorded
