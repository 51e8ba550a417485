"""`doctor` on machines that this one is not."""

import os
import shutil
from collections import namedtuple
from importlib import metadata

import pytest

from deploykit import doctor

Usage = namedtuple("Usage", "total used free")


def finding(subject):
    [found] = [row for row in doctor.examine() if row.subject == subject]
    return found


@pytest.fixture
def installed(monkeypatch):
    """A machine on which these distributions have these versions, and None are not there; the others are as here."""

    def pretend(**versions):
        real = metadata.version

        def version(name):
            if name.replace("-", "_") not in versions:
                return real(name)
            if (answer := versions[name.replace("-", "_")]) is None:
                raise metadata.PackageNotFoundError(name)
            return answer

        monkeypatch.setattr(metadata, "version", version)

    return pretend


@pytest.fixture
def files(monkeypatch, tmp_path):
    """A machine on which these system files hold these words, and the others that doctor looks at are not there."""

    def pretend(**contents):
        def path(name):
            stand_in = tmp_path / name.strip("/").replace("/", "_")
            for key, text in contents.items():
                if key in name:
                    stand_in.write_text(text)
            return stand_in

        monkeypatch.setattr(doctor, "Path", path)

    return pretend


def test_nothing_needed_is_broken_where_the_tests_run():
    assert [row for row in doctor.examine() if row.state == "broken"] == []


@pytest.mark.parametrize("package", doctor.CORE)
def test_a_missing_core_package_is_broken_and_names_the_command(installed, package):
    installed(**{package.replace("-", "_"): None})
    found = finding(package)
    assert (found.state, found.detail, found.remedy) == ("broken", "not installed", "pip install deploykit")


@pytest.mark.parametrize(("package", "use"), doctor.EXTRAS.items())
def test_a_missing_extra_is_only_missing_and_says_what_it_is_for(installed, package, use):
    installed(**{package.replace("-", "_"): None})
    found = finding(package)
    assert (found.state, found.detail) == ("missing", f"needed for {use}")
    assert found.remedy == "pip install 'deploykit[datasets]'"


def test_two_packages_that_own_one_import_name_are_broken(installed):
    installed(onnxruntime="1.31.1", onnxruntime_gpu="1.31.0")
    found = finding("onnxruntime")
    assert found.state == "broken"
    assert found.detail == "two packages own the import name: onnxruntime and onnxruntime-gpu"
    assert found.remedy.startswith("pip uninstall onnxruntime onnxruntime-gpu")


@pytest.mark.parametrize("package", ["onnxruntime", "onnxruntime-gpu"])
def test_either_package_alone_is_good(installed, package):
    installed(**{"onnxruntime": None, "onnxruntime_gpu": None, package.replace("-", "_"): "1.31.1"})
    assert (finding("onnxruntime").state, finding("onnxruntime").detail) == ("ok", f"1.31.1 ({package})")


def test_a_build_of_ones_own_is_good(installed):
    installed(onnxruntime=None, onnxruntime_gpu=None)
    assert (finding("onnxruntime").state, finding("onnxruntime").detail) == ("ok", "of unknown origin")


@pytest.mark.parametrize(("backend", "extra"), [("onnxruntime", "cpu"), ("openvino", "openvino")])
def test_a_backend_that_is_not_installed_is_missing_and_names_the_command(monkeypatch, backend, extra):
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == backend else find(name))
    found = finding(backend)
    assert (found.state, found.remedy) == ("missing", f"pip install 'deploykit[{extra}]'")


def test_openvino_says_its_version(installed):
    installed(openvino="2026.4.1")
    assert (finding("openvino").state, finding("openvino").detail) == ("ok", "2026.4.1")


def test_no_driver_is_missing_and_says_what_follows(files):
    files()
    assert finding("NVIDIA driver").state == "missing"
    assert "built and checked on the CPU" in finding("NVIDIA driver").detail


def test_a_driver_says_its_version(files):
    files(nvidia="NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05\nGCC version: 12\n")
    assert finding("NVIDIA driver").state == "ok"
    assert finding("NVIDIA driver").detail.endswith("580.95.05")


def test_a_jetson_says_its_model(files):
    files(model="NVIDIA Jetson AGX Orin\0")
    assert (finding("NVIDIA driver").state, finding("NVIDIA driver").detail) == ("ok", "NVIDIA Jetson AGX Orin")


def test_a_board_of_somebody_else_is_no_jetson(files):
    files(model="Raspberry Pi 5\0")
    assert finding("NVIDIA driver").state == "missing"


@pytest.mark.parametrize("tool", ["nvcc", "cmake", "g++"])
def test_a_missing_tool_is_only_missing(monkeypatch, tool):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert finding(tool).state == "missing"
    assert finding(tool).detail.startswith("only needed for ")


def test_a_cache_that_does_not_exist_yet_is_good(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "deep" / "down"))
    assert finding("cache").state == "ok"
    assert not (tmp_path / "deep").exists()


def test_a_cache_that_cannot_be_written_is_broken_and_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    found = finding("cache")
    assert (found.state, found.detail) == ("broken", f"{tmp_path} cannot be written")
    assert found.remedy == "set DEPLOYKIT_CACHE_DIR"


def test_a_cache_that_is_a_file_is_broken(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "file"))
    assert (finding("cache").state, finding("cache").detail) == ("broken", f"{tmp_path / 'file'} is not a folder")


def test_a_cache_on_a_full_disk_is_broken(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 2**30, 2**30))
    assert finding("cache").state == "broken"
    assert "only 1.0 GiB free" in finding("cache").detail
