"""`doctor` on simulated machines."""

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
from deploykit.backends.gpu.driver import Driver, Gpu
from deploykit.backends.onnxruntime_package import OnnxRuntimePackage
from deploykit.core import cache
from deploykit.core.extras import install_command, pip_command, reinstall_command
from deploykit.workflows import doctor

Usage = namedtuple("Usage", "total used free")


ABSENCE = "no NVIDIA driver is installed (libcuda.so.1 is not found)"
AS_ROOT = "" if os.geteuid() == 0 else "sudo "
H200 = Gpu("NVIDIA H200", 90, "580.65.06", 150_754_820_096)


def find_row(subject):
    [match] = [row for row in doctor.examine_machine() if row.subject == subject]
    return match


IMPORT_MEMORY = doctor.IMPORT_MEMORY


@pytest.fixture(autouse=True)
def no_import_of_memory_libraries(monkeypatch):
    """A child process that imports NumPy and cuda-bindings takes longer than all else that is examined."""
    monkeypatch.setattr(doctor, "IMPORT_MEMORY", 'answer = {"name": "pycuda 2026.1", "refusals": {}}')


@pytest.fixture
def installed(monkeypatch):
    """A machine with these versions of these packages (None: not installed); other packages are the real ones."""

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
    """A machine with only these files of Linux."""

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


def test_no_required_finding_is_broken_in_the_test_environment():
    assert [row for row in doctor.examine_machine() if row.state == "broken"] == []


@pytest.mark.parametrize("package", doctor.CORE)
def test_a_missing_core_package_is_broken_and_names_the_command(installed, package):
    installed(**{package.replace("-", "_"): None})
    result = find_row(package)
    assert (result.state, result.detail, result.remedy) == ("broken", "not installed", install_command())


@pytest.mark.parametrize(("package", "use", "extra"), [(name, *entry) for name, entry in doctor.EXTRAS.items()])
def test_a_missing_extra_is_not_broken_and_states_its_purpose(installed, package, use, extra):
    installed(**{package.replace("-", "_"): None})
    result = find_row(package)
    assert (result.state, result.detail) == ("missing", f"needed for {use}")
    assert result.remedy.endswith(install_command(extra))


def test_the_gpu_extra_replaces_the_cpu_build_of_onnxruntime(installed):
    installed(pycuda=None, onnxruntime="1.31.1", onnxruntime_gpu=None)
    assert find_row("pycuda").remedy == f"{pip_command('uninstall', 'onnxruntime')} && {install_command('gpu')}"
    installed(pycuda=None, onnxruntime=None, onnxruntime_gpu="1.31.1")
    assert find_row("pycuda").remedy == install_command("gpu")


def test_two_packages_with_one_import_name_are_broken(installed):
    installed(onnxruntime="1.31.1", onnxruntime_gpu="1.31.0")
    result = find_row("onnxruntime")
    assert result.state == "broken"
    assert result.detail == "two packages own the import name: onnxruntime and onnxruntime-gpu"
    assert result.remedy.startswith(pip_command("uninstall", "onnxruntime", "onnxruntime-gpu"))


@pytest.mark.parametrize("package", ["onnxruntime", "onnxruntime-gpu"])
def test_either_onnxruntime_package_alone_is_ok(installed, package):
    installed(**{"onnxruntime": None, "onnxruntime_gpu": None, package.replace("-", "_"): "1.31.1"})
    assert (find_row("onnxruntime").state, find_row("onnxruntime").detail) == ("ok", f"1.31.1 ({package})")


def test_a_self_built_onnxruntime_is_ok(installed):
    installed(onnxruntime=None, onnxruntime_gpu=None)
    assert (find_row("onnxruntime").state, find_row("onnxruntime").detail) == ("ok", "of unknown version")


@pytest.fixture
def onnxruntime_package(monkeypatch):
    """A machine with that package of ONNX Runtime."""

    def pretend(name, has_cuda_provider):
        package = OnnxRuntimePackage(name, "1.31.1", has_cuda_provider)
        monkeypatch.setattr(doctor, "find_package", lambda: package)

    return pretend


def test_the_cpu_build_of_onnxruntime_has_no_cuda_provider_and_the_command_replaces_it(
    installed, onnxruntime_package, driver
):
    installed(onnxruntime="1.31.1", onnxruntime_gpu=None)
    onnxruntime_package("onnxruntime", False)
    driver(H200)
    result = find_row("onnxruntime-cuda")
    assert (result.state, result.detail) == ("missing", "onnxruntime has no CUDA provider")
    assert result.remedy == f"{pip_command('uninstall', 'onnxruntime')} && {install_command('cuda')}"


@pytest.mark.parametrize("package", [("onnxruntime", False), ("onnxruntime-gpu", True)])
def test_without_a_driver_the_cuda_provider_cannot_run_and_nothing_is_to_be_installed(
    onnxruntime_package, driver, package
):
    onnxruntime_package(*package)
    driver()
    result = find_row("onnxruntime-cuda")
    assert (result.state, result.detail, result.remedy) == ("missing", f"cannot run here: {ABSENCE}", None)


def test_the_cuda_provider_runs_on_a_gpu(onnxruntime_package, driver):
    onnxruntime_package("onnxruntime-gpu", True)
    driver(H200)
    result = find_row("onnxruntime-cuda")
    assert (result.state, result.detail) == ("ok", "1.31.1: runs FP32, FP16 and BF16 graphs on the GPU")


EXTRA_OF = [("onnxruntime", "cpu"), ("openvino", "openvino"), ("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")]


@pytest.mark.parametrize(("backend", "extra"), EXTRA_OF)
def test_a_backend_that_is_not_installed_is_missing_and_names_the_command(monkeypatch, backend, extra):
    absent, find = BACKENDS[backend].requires, importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find(name))
    result = find_row(backend)
    assert (result.state, result.detail) == ("missing", f"{absent} is not installed")
    assert result.remedy.endswith(install_command(extra))


def test_every_backend_has_a_finding():
    subjects = [row.subject for row in doctor.examine_machine()]
    assert [name for name in subjects if name in BACKENDS] == list(BACKENDS)


def test_openvino_reports_its_version(installed):
    installed(openvino="2026.4.1")
    assert (find_row("openvino").state, find_row("openvino").detail) == ("ok", "2026.4.1")


@pytest.fixture
def driver(monkeypatch):
    """A machine with this GPU, or without one for this reason."""

    def pretend(gpu=None, absence=ABSENCE):
        monkeypatch.setattr(doctor, "query_driver", lambda: Driver(gpu, None if gpu else absence))

    return pretend


@pytest.fixture
def library(monkeypatch, tmp_path):
    """A machine with a library of this name that consists of these lines."""

    def pretend(name, *lines):
        package = tmp_path / "packages" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(package.parent)

    return pretend


SOUND = ("Builder = object",)
"""Lines that every TensorRT has, and type stubs lack."""


def test_type_stubs_alone_do_not_count_as_tensorrt(monkeypatch, tmp_path):
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert (find_row("tensorrt").state, find_row("tensorrt").detail) == ("missing", "tensorrt is not installed")


def test_tensorrt_without_a_driver_can_neither_build_nor_run(library, driver):
    library("tensorrt", *SOUND, '__version__ = "11.4.0.106"')
    driver()
    result = find_row("tensorrt")
    assert (result.state, result.remedy) == ("missing", None)
    assert result.detail == f"11.4.0.106: cannot build or run engines here: {ABSENCE}"


def test_tensorrt_rtx_without_a_driver_builds_and_does_not_run(library, driver):
    library("tensorrt_rtx", *SOUND, '__version__ = "1.7.1.116"')
    driver()
    result = find_row("tensorrt-rtx")
    assert (result.state, result.detail) == ("ok", f"1.7.1.116: builds engines; cannot run them: {ABSENCE}")


@pytest.mark.parametrize(("name", "version"), [("tensorrt", "11.4.0.106"), ("tensorrt-rtx", "1.7.1.116")])
def test_with_a_gpu_the_engines_that_run_are_named(library, driver, name, version):
    library(BACKENDS[name].requires, *SOUND, f'__version__ = "{version}"')
    driver(H200)
    result = find_row(name)
    assert (result.state, result.detail) == ("ok", f"{version}: builds engines, runs those for compute capability 9.0")


def test_a_library_with_missing_shared_libraries_is_broken(library):
    missing = "libnvinfer.so.11: cannot open shared object file: No such file or directory"
    library("tensorrt", f'raise ImportError("{missing}")')
    result = find_row("tensorrt")
    assert result.state == "broken"
    assert "libnvinfer.so.11" in result.detail
    assert result.remedy


def test_a_library_that_crashes_while_imported_is_broken(library):
    library("tensorrt", "import os, signal", "os.kill(os.getpid(), signal.SIGSEGV)")
    result = find_row("tensorrt")
    assert (result.state, result.detail) == ("broken", "importing tensorrt failed: the process died by SIGSEGV")
    assert result.remedy == reinstall_command("tensorrt")


def test_output_of_a_library_while_imported_is_ignored(library, driver):
    library("tensorrt", 'print("{}")', 'print("[W] no newline", end="")', *SOUND, '__version__ = "11.4.0.106"')
    driver(H200)
    assert find_row("tensorrt").detail.startswith("11.4.0.106: builds")


def test_hanging_imports_share_one_time_limit(library, tmp_path):
    started = [tmp_path / name for name in ("tensorrt", "tensorrt_rtx")]
    for file in started:
        library(file.name, "import os, time", f'open("{file}", "w").write(str(os.getpid()))', "time.sleep(60)")
    start = time.monotonic()
    rows = {row.subject: row for row in doctor.examine_machine()}
    assert time.monotonic() - start < 2 * doctor.TIMEOUT_S
    for name in doctor.TENSORRT:
        assert (rows[name].state, "not imported" in rows[name].detail) == ("ok", True)
    for file in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


@pytest.fixture
def memory_libraries(library, installed, monkeypatch):
    """A machine with pycuda and cuda-bindings that consist of these lines; None: it is not installed."""

    def pretend(pycuda, cuda_bindings):
        monkeypatch.setattr(doctor, "IMPORT_MEMORY", IMPORT_MEMORY)
        monkeypatch.setattr(doctor, "TIMEOUT_S", 30)  # on a busy machine too
        versions = {"pycuda": "2026.1", "cuda_bindings": "13.0.3"}
        lines = {"pycuda": pycuda, "cuda_bindings": cuda_bindings}
        installed(**{name: versions[name] if lines[name] is not None else None for name in lines})
        absent = 'raise ModuleNotFoundError("not here")'
        library("pycuda", absent if pycuda is None else pycuda)
        library("pycuda/driver", "Error = MemoryError = Exception")
        library("cuda", "")
        library("cuda/bindings", absent if cuda_bindings is None else cuda_bindings)
        library("cuda/bindings/driver", "")

    return pretend


PYCUDA, BINDINGS = 'VERSION_TEXT = "2026.1"', '__version__ = "13.0.3"'


@pytest.mark.parametrize(
    ("pycuda", "cuda_bindings", "detail"),
    [
        (PYCUDA, BINDINGS, "pycuda 2026.1, for TensorRT engines"),
        (None, BINDINGS, "cuda-bindings 13.0.3, for TensorRT engines"),
        (
            'raise ImportError("libcurand.so.10: not found")',
            BINDINGS,
            "cuda-bindings 13.0.3, for TensorRT engines; pycuda cannot be imported: libcurand.so.10: not found",
        ),
    ],
)
def test_the_library_that_manages_gpu_memory_is_named(memory_libraries, pycuda, cuda_bindings, detail):
    memory_libraries(pycuda, cuda_bindings)
    assert (find_row("GPU memory").state, find_row("GPU memory").detail) == ("ok", detail)


def test_without_a_library_for_gpu_memory_the_one_that_needs_no_compiler_is_suggested(memory_libraries):
    memory_libraries(None, None)
    result = find_row("GPU memory")
    assert (result.state, result.remedy) == ("missing", pip_command("install", "cuda-bindings"))
    assert result.detail == "neither cuda-bindings nor pycuda is installed, which run TensorRT engines"


def test_a_library_for_gpu_memory_that_crashes_is_broken(memory_libraries):
    memory_libraries("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", BINDINGS)
    result = find_row("GPU memory")
    assert (result.state, result.detail.rpartition(" ")[2]) == ("broken", "SIGSEGV")


def test_doctor_imports_no_library_in_its_own_process():
    program = "import sys; from deploykit.workflows import doctor; doctor.examine_machine(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "pycuda", "cuda", *(entry.requires for entry in BACKENDS.values())} & set(done.stdout.split())


def test_a_missing_gpu_is_reported_with_the_consequence(files, driver):
    files()
    driver()
    result = find_row("GPU")
    assert (result.state, result.detail) == ("missing", f"{ABSENCE}: graphs are built and checked on the CPU")


def test_a_kernel_module_without_its_library_suggests_a_container_without_gpu_access(files, driver):
    files(nvidia="NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05\n")
    driver()
    assert find_row("GPU").state == "missing"
    assert "a container without access to the GPU" in find_row("GPU").detail


def test_a_gpu_is_reported_with_capability_memory_and_driver(files, driver):
    files()
    driver(H200)
    result = find_row("GPU")
    assert (result.state, result.remedy) == ("ok", None)
    assert result.detail == "NVIDIA H200, compute capability 9.0, 140.4 GiB, driver 580.65.06"


def test_a_gpu_without_a_driver_is_found_on_the_pci_bus(files, driver):
    files(vendor="0x10de\n", kind="0x030200\n")
    driver()
    result = find_row("GPU")
    assert (result.state, result.remedy) == ("missing", f"{AS_ROOT}ubuntu-drivers install && {AS_ROOT}reboot")
    assert "this machine has an NVIDIA GPU" in result.detail


@pytest.mark.parametrize(("vendor", "kind"), [("0x1002\n", "0x030000\n"), ("0x10de\n", "0x040300\n")])
def test_other_vendors_and_audio_devices_are_not_nvidia_gpus(files, driver, vendor, kind):
    files(vendor=vendor, kind=kind)
    driver()
    assert find_row("GPU").remedy is None


MODES = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"


def test_a_jetson_reports_its_board_and_power_mode(files):
    files(model="NVIDIA Jetson AGX Orin\0", status="pmode:0002", modes=MODES)
    assert (find_row("Jetson").state, find_row("Jetson").detail) == (
        "ok",
        "NVIDIA Jetson AGX Orin, power mode MODE_30W",
    )


def test_a_jetson_with_unknown_power_mode_names_the_command_that_prints_it(files):
    files(model="NVIDIA Jetson AGX Orin\0")
    assert "sudo nvpmodel -q" in find_row("Jetson").detail


def test_other_boards_are_not_jetsons(files):
    files(model="Raspberry Pi 5\0")
    assert [row for row in doctor.examine_machine() if row.subject == "Jetson"] == []


@pytest.mark.parametrize("tool", doctor.TOOLS)
def test_a_missing_tool_is_only_missing_and_names_the_command(monkeypatch, tool):
    monkeypatch.setattr(shutil, "which", {"apt": "/usr/bin/apt"}.get)
    result = find_row(tool)
    assert result.state == "missing"
    assert result.detail.startswith("only needed for C++ applications")
    assert result.remedy.startswith(f"{AS_ROOT}apt install ")


def test_without_apt_a_missing_tool_names_its_package(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert (
        find_row("clang").remedy == "install clang (its name on Debian and Ubuntu) with this system's package manager"
    )


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """A machine with this shell script as its g++."""

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
def test_a_tool_reports_its_version_and_path(tool, said, version):
    program = tool(f"echo '{said}'")
    assert (find_row("g++").state, find_row("g++").detail) == ("ok", f"{version}, {program}")


def test_a_failing_tool_is_broken_with_the_reason(tool):
    program = tool("echo cannot find libmpc.so.3 >&2; exit 127")
    result = find_row("g++")
    assert (result.state, result.detail) == ("broken", f"{program} --version failed: cannot find libmpc.so.3")
    assert result.remedy == f"{AS_ROOT}apt install --reinstall g++"


def test_a_hanging_tool_is_stopped_at_the_time_limit(tool):
    program = tool("exec sleep 60")
    assert (find_row("g++").state, find_row("g++").detail) == ("ok", f"of unknown version, {program}")


def test_a_cache_that_does_not_exist_yet_is_ok(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "deep" / "down"))
    assert find_row("cache").state == "ok"
    assert not (tmp_path / "deep").exists()


def test_a_cache_that_cannot_be_written_is_broken_and_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    result = find_row("cache")
    assert (result.state, result.detail) == ("broken", f"{tmp_path} cannot be written")
    assert result.remedy.startswith("export DEPLOYKIT_CACHE_DIR=")


def test_a_cache_that_is_a_file_is_broken(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "file"))
    assert (find_row("cache").state, find_row("cache").detail) == ("broken", f"{tmp_path / 'file'} is not a folder")


def test_the_cache_reports_entries_size_and_cap(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DEPLOYKIT_CACHE_GIB", "1.5")
    cache.fetch_or_build("graph", {}, lambda folder: (folder / "file").write_bytes(b"x"))
    assert find_row("cache").detail.startswith(f"{tmp_path}, 1 entries, 0.0 GiB of at most 1.5 GiB, ")


def test_an_invalid_cache_cap_is_broken(monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_CACHE_GIB", "much")
    result = find_row("cache")
    assert (result.state, result.remedy) == ("broken", "Set it to a number such as 20.")


def test_a_full_disk_is_broken_for_bundles_and_for_the_cache(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 2**30, 2**30))
    for subject, remedy in (("disk", "choose another folder with -o"), ("cache", "deploykit cache clear")):
        result = find_row(subject)
        assert result.state == "broken"
        assert result.remedy.endswith(remedy)
        assert "only 1.0 GiB free" in result.detail


def test_free_space_is_that_of_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_row("disk").detail.endswith(f"GiB free for bundles in {tmp_path}")
