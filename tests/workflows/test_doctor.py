"""`doctor` on machines that this one is not."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from importlib import metadata

import pytest

from deploykit.backends import BACKENDS
from deploykit.backends.tensorrt.driver import Driver, Gpu
from deploykit.core import cache
from deploykit.workflows import doctor

Usage = namedtuple("Usage", "total used free")


ABSENCE = "no NVIDIA driver is installed (libcuda.so.1 is not found)"
H200 = Gpu("NVIDIA H200", 90, "580.65.06", 150_754_820_096)


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
    """A machine whose files of Linux are these alone."""

    def pretend(**contents):
        for name, text in contents.items():
            path = tmp_path / "root" / PLACES[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(doctor, "ROOT", tmp_path / "root")

    return pretend


PLACES = {
    "nvidia": "proc/driver/nvidia/version",
    "model": "proc/device-tree/model",
    "status": "var/lib/nvpmodel/status",
    "modes": "etc/nvpmodel.conf",
    "vendor": "sys/bus/pci/devices/0000:01:00.0/vendor",
    "kind": "sys/bus/pci/devices/0000:01:00.0/class",
}


def test_nothing_needed_is_broken_where_the_tests_run():
    assert [row for row in doctor.examine() if row.state == "broken"] == []


@pytest.mark.parametrize("package", doctor.CORE)
def test_a_missing_core_package_is_broken_and_names_the_command(installed, package):
    installed(**{package.replace("-", "_"): None})
    found = finding(package)
    assert (found.state, found.detail, found.remedy) == ("broken", "not installed", "pip install deploykit")


@pytest.mark.parametrize(("package", "use", "extra"), [(name, *entry) for name, entry in doctor.EXTRAS.items()])
def test_a_missing_extra_is_only_missing_and_says_what_it_is_for(installed, package, use, extra):
    installed(**{package.replace("-", "_"): None})
    found = finding(package)
    assert (found.state, found.detail) == ("missing", f"needed for {use}")
    assert found.remedy == f"pip install 'deploykit[{extra}]'"


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


EXTRA_OF = [("onnxruntime", "cpu"), ("openvino", "openvino"), ("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")]


@pytest.mark.parametrize(("backend", "extra"), EXTRA_OF)
def test_a_backend_that_is_not_installed_is_missing_and_names_the_command(monkeypatch, backend, extra):
    absent, find = BACKENDS[backend].requires, importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find(name))
    found = finding(backend)
    assert (found.state, found.detail) == ("missing", f"{absent} is not installed")
    assert found.remedy == f"pip install 'deploykit[{extra}]'"


def test_every_backend_has_a_finding():
    subjects = [row.subject for row in doctor.examine()]
    assert [name for name in subjects if name in BACKENDS] == list(BACKENDS)


def test_openvino_says_its_version(installed):
    installed(openvino="2026.4.1")
    assert (finding("openvino").state, finding("openvino").detail) == ("ok", "2026.4.1")


@pytest.fixture
def driver(monkeypatch):
    """A machine with this GPU, or without one for this reason."""

    def pretend(gpu=None, absence=ABSENCE):
        monkeypatch.setattr(doctor, "driver", lambda: Driver(gpu, None if gpu else absence))

    return pretend


@pytest.fixture
def library(monkeypatch, tmp_path):
    """A machine on which a library of this name is installed, of these lines."""

    def pretend(name, *lines):
        package = tmp_path / "packages" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(package.parent)

    return pretend


SOUND = ("Builder = object",)
"""What every TensorRT has, and a folder of type stubs has not."""


def test_type_stubs_alone_are_no_tensorrt(monkeypatch, tmp_path):
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert (finding("tensorrt").state, finding("tensorrt").detail) == ("missing", "tensorrt is not installed")


def test_tensorrt_without_a_driver_is_said_to_be_good_for_nothing_here(library, driver):
    library("tensorrt", *SOUND, '__version__ = "11.4.0.106"')
    driver()
    found = finding("tensorrt")
    assert (found.state, found.remedy) == ("missing", None)
    assert found.detail == f"11.4.0.106: builds nothing, runs nothing here: {ABSENCE}"


def test_tensorrt_rtx_without_a_driver_builds_and_does_not_run(library, driver):
    library("tensorrt_rtx", *SOUND, '__version__ = "1.7.1.116"')
    driver()
    found = finding("tensorrt-rtx")
    assert (found.state, found.detail) == ("ok", f"1.7.1.116: builds engines; cannot run them: {ABSENCE}")


@pytest.mark.parametrize(("name", "version"), [("tensorrt", "11.4.0.106"), ("tensorrt-rtx", "1.7.1.116")])
def test_with_a_gpu_the_engines_that_run_are_named(library, driver, name, version):
    library(BACKENDS[name].requires, *SOUND, f'__version__ = "{version}"')
    driver(H200)
    found = finding(name)
    assert (found.state, found.detail) == ("ok", f"{version}: builds engines, runs those for compute capability 9.0")


def test_a_library_whose_own_libraries_are_missing_is_broken(library):
    missing = "libnvinfer.so.11: cannot open shared object file: No such file or directory"
    library("tensorrt", f'raise ImportError("{missing}")')
    found = finding("tensorrt")
    assert found.state == "broken"
    assert "libnvinfer.so.11" in found.detail
    assert found.remedy


def test_a_library_that_takes_its_process_down_takes_no_doctor_down(library):
    library("tensorrt", "import os, signal", "os.kill(os.getpid(), signal.SIGSEGV)")
    found = finding("tensorrt")
    assert (found.state, found.detail) == ("broken", "importing tensorrt failed: the process died by SIGSEGV")
    assert found.remedy == "pip install --force-reinstall 'deploykit[gpu]'"


def test_a_library_that_talks_while_it_is_imported_is_understood(library, driver):
    library("tensorrt", 'print("{}")', 'print("[W] no newline", end="")', *SOUND, '__version__ = "11.4.0.106"')
    driver(H200)
    assert finding("tensorrt").detail.startswith("11.4.0.106: builds")


def test_libraries_that_hang_are_waited_for_at_once_and_not_for_long(library, tmp_path):
    started = [tmp_path / name for name in ("tensorrt", "tensorrt_rtx")]
    for file in started:
        library(file.name, "import os, time", f'open("{file}", "w").write(str(os.getpid()))', "time.sleep(60)")
    start = time.monotonic()
    found = {row.subject: row for row in doctor.examine()}
    assert time.monotonic() - start < 2 * doctor.PATIENCE_S
    for name in doctor.TENSORRT:
        assert (found[name].state, "was not waited for" in found[name].detail) == ("ok", True)
    for file in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_doctor_imports_none_of_the_libraries_itself():
    program = "import sys; from deploykit import doctor; doctor.examine(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", *(entry.requires for entry in BACKENDS.values())} & set(done.stdout.split())


def test_no_gpu_is_missing_and_says_what_follows(files, driver):
    files()
    driver()
    found = finding("GPU")
    assert (found.state, found.detail) == ("missing", f"{ABSENCE}: graphs are built and checked on the CPU")


def test_a_kernel_module_without_its_library_hints_at_the_container(files, driver):
    files(nvidia="NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05\n")
    driver()
    assert finding("GPU").state == "missing"
    assert "a container that was not given the GPU" in finding("GPU").detail


def test_a_gpu_is_told_with_all_that_engines_depend_on(files, driver):
    files()
    driver(H200)
    found = finding("GPU")
    assert (found.state, found.remedy) == ("ok", None)
    assert found.detail == "NVIDIA H200, compute capability 9.0, 140.4 GiB, driver 580.65.06"


def test_a_gpu_without_a_driver_is_seen_on_the_bus_and_the_driver_is_named(files, driver):
    files(vendor="0x10de\n", kind="0x030200\n")
    driver()
    found = finding("GPU")
    assert (found.state, found.remedy) == ("missing", "sudo ubuntu-drivers install, then restart")
    assert "a GPU of NVIDIA's is in this machine" in found.detail


@pytest.mark.parametrize(("vendor", "kind"), [("0x1002\n", "0x030000\n"), ("0x10de\n", "0x040300\n")])
def test_another_vendors_gpu_and_nvidias_sound_are_no_gpu_of_nvidias(files, driver, vendor, kind):
    files(vendor=vendor, kind=kind)
    driver()
    assert finding("GPU").remedy is None


MODES = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"


def test_a_jetson_says_its_board_and_power_mode(files):
    files(model="NVIDIA Jetson AGX Orin\0", status="pmode:0002", modes=MODES)
    assert (finding("Jetson").state, finding("Jetson").detail) == ("ok", "NVIDIA Jetson AGX Orin, power mode MODE_30W")


def test_a_jetson_whose_power_mode_nothing_tells_says_what_would(files):
    files(model="NVIDIA Jetson AGX Orin\0")
    assert "sudo nvpmodel -q" in finding("Jetson").detail


def test_a_board_of_somebody_else_is_no_jetson(files):
    files(model="Raspberry Pi 5\0")
    assert [row for row in doctor.examine() if row.subject == "Jetson"] == []


@pytest.mark.parametrize("tool", doctor.TOOLS)
def test_a_missing_tool_is_only_missing_and_names_the_command(monkeypatch, tool):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = finding(tool)
    assert found.state == "missing"
    assert found.detail.startswith("only needed for C++ applications")
    assert found.remedy.startswith("sudo apt install ")


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """A machine whose g++ is this shell script."""

    def pretend(script):
        program = tmp_path / "g++"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return program

    return pretend


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("g++ (Debian 12.2.0-14) 12.2.0", "12.2.0"),
        ("cmake version 3.25.1", "3.25.1"),
        ("Copyright (c) 2005-2024\nCuda compilation tools, release 12.4, V12.4.131", "12.4"),
        ("hello", "of unknown version"),
    ],
)
def test_a_tool_says_its_version_and_its_place(tool, said, version):
    program = tool(f"echo '{said}'")
    assert (finding("g++").state, finding("g++").detail) == ("ok", f"{version}, {program}")


def test_a_tool_that_fails_is_broken_and_says_why(tool):
    program = tool("echo cannot find libmpc.so.3 >&2; exit 127")
    found = finding("g++")
    assert (found.state, found.detail) == ("broken", f"{program} --version failed: cannot find libmpc.so.3")
    assert found.remedy == "sudo apt install --reinstall g++"


def test_a_tool_that_hangs_is_not_waited_for_long(tool):
    program = tool("exec sleep 60")
    assert (finding("g++").state, finding("g++").detail) == ("ok", f"of unknown version, {program}")


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


def test_a_cache_says_its_entries_its_size_and_its_cap(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DEPLOYKIT_CACHE_GIB", "1.5")
    cache.fetch("graph", {}, lambda folder: (folder / "file").write_bytes(b"x"))
    assert finding("cache").detail.startswith(f"{tmp_path}, 1 entries, 0.0 GiB of at most 1.5 GiB, ")


def test_a_cap_that_is_no_number_is_broken(monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_CACHE_GIB", "much")
    found = finding("cache")
    assert (found.state, found.remedy) == ("broken", "Set it to a number such as 20.")


def test_a_full_disk_is_broken_for_bundles_and_for_the_cache(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 2**30, 2**30))
    for subject, remedy in (("disk", "choose another folder with -o"), ("cache", "deploykit cache clear")):
        found = finding(subject)
        assert (found.state, found.remedy) == ("broken", remedy)
        assert "only 1.0 GiB free" in found.detail


def test_the_disk_is_the_one_of_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert finding("disk").detail.endswith(f"GiB free for bundles in {tmp_path}")
