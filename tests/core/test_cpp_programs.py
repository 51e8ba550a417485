"""Programs built by CMake: cached while unchanged, never partially built, and every failure explained.

A script replaces CMake: it finds what the test configures, and records its arguments.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from deploykit.core import cache, cpp_programs
from deploykit.core.cpp_programs import CppProject
from deploykit.core.errors import BackendError

CMAKE = """#!/bin/sh
state='{state}'
echo "$*" >>"$state/asked"
if [ "$1" = --build ]; then
    cat "$state/complaint" 2>/dev/null && exit 1
    [ ! -e "$state/slow" ] || {{ echo $$ >"$state/building"; sleep 60; }}
    echo program >"$2/program"
    exit
fi
mkdir -p "$4/CMakeFiles/3.25.1"
cp "$state/compiler" "$4/CMakeFiles/3.25.1/CMakeCXXCompiler.cmake"
cp "$state/settings" "$4/CMakeCache.txt"
echo "x_BINARY_DIR:STATIC=$4" >>"$4/CMakeCache.txt"
for word in "$@"; do
    case $word in -DONNXRuntime_LIBRARY=*)
        sed -i "s|^ONNXRuntime_LIBRARY:.*|ONNXRuntime_LIBRARY:FILEPATH=${{word#*=}}|" "$4/CMakeCache.txt"
        exit ;;
    esac
done
cat "$state/refusal" 2>/dev/null && exit 1
exit 0
"""


class Machine:
    """The packages that CMake finds, the arguments it received, and a project to build."""

    def __init__(self, state):
        self.state = state
        folder = state.parent / "project"
        (folder / "src").mkdir(parents=True)
        (folder / "src" / "main.cpp").write_text("int main() {}")
        self.project = CppProject(folder, (folder / "src",), ("-DOPTION=ON",), ("program",))

    def finds(self, **settings):
        lines = [f"{name}:FILEPATH={value}\n" for name, value in settings.items()]
        (self.state / "settings").write_text("// found\n" + "".join(lines))

    def says(self, file, text):
        (self.state / file).write_text(text)

    def builds(self):
        log = self.state / "asked"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return sum(line.startswith("--build") for line in lines)


class RecordedProgress:
    """Progress that records its calls."""

    def __init__(self):
        self.steps, self.notes = [], []

    def step(self, title, total=None):  # noqa: ARG002 - the signature of Progress
        self.steps.append(title)
        return contextlib.nullcontext(lambda: None)

    def note(self, text):
        self.notes.append(text)

    def done(self, text):
        pass


@pytest.fixture
def machine(tmp_path, monkeypatch):
    state = tmp_path / "state"
    state.mkdir()
    program = tmp_path / "programs" / "cmake"
    program.parent.mkdir()
    program.write_text(CMAKE.format(state=state))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    created = Machine(state)
    created.says("compiler", "12.2.0")
    (tmp_path / "libonnxruntime.so.1").write_text("system")
    created.finds(ONNXRuntime_LIBRARY=tmp_path / "libonnxruntime.so.1", ONNXRuntime_INCLUDE_DIR="/usr/include")
    return created


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A Python package onnxruntime with a shared library, under its full version only."""
    package = tmp_path / "packages" / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    library = package / "capi" / "libonnxruntime.so.1.31.1"
    library.write_text("wheel")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    return library


def test_a_program_is_built_once(machine):
    first = cpp_programs.build_programs(machine.project, RecordedProgress())
    assert (first / "program").read_text() == "program\n"
    assert machine.builds() == 1
    assert cpp_programs.build_programs(machine.project, RecordedProgress()) == first
    assert machine.builds() == 0


def test_progress_is_reported_only_for_a_build(machine):
    notes = RecordedProgress()
    cpp_programs.build_programs(machine.project, notes)
    cpp_programs.build_programs(machine.project, notes)
    assert notes.steps == ["building program"]


def test_cmake_receives_the_projects_options_and_targets(machine):
    cpp_programs.build_programs(machine.project, RecordedProgress())
    configured, built = (machine.state / "asked").read_text().splitlines()
    assert configured.startswith(f"-S {machine.project.folder} -B ")
    assert "-DOPTION=ON" in configured.split()
    assert built.endswith("--target program")


def another_source(machine):
    (machine.project.folder / "src" / "main.cpp").write_text("int main() { return 0; }")


def a_source_of_another_name(machine):
    (machine.project.folder / "src" / "main.cpp").rename(machine.project.folder / "src" / "program.cpp")


def another_compiler(machine):
    machine.says("compiler", "13.1.0")


def another_library(machine):
    (machine.state.parent / "libonnxruntime.so.1").write_text("a newer one")


def another_place(machine):
    machine.finds(ONNXRuntime_LIBRARY=machine.state.parent / "libonnxruntime.so.1", ONNXRuntime_INCLUDE_DIR="/opt")


@pytest.mark.parametrize(
    "change", [another_source, a_source_of_another_name, another_compiler, another_library, another_place]
)
def test_a_changed_source_or_setting_rebuilds(machine, change):
    first = cpp_programs.build_programs(machine.project, RecordedProgress())
    machine.builds()
    change(machine)
    assert cpp_programs.build_programs(machine.project, RecordedProgress()) != first
    assert machine.builds() == 1


def test_a_damaged_program_is_built_again(machine):
    first = cpp_programs.build_programs(machine.project, RecordedProgress())
    (first / "program").write_text("damaged")
    assert (cpp_programs.build_programs(machine.project, RecordedProgress()) / "program").read_text() == "program\n"


def test_with_headers_only_the_wheels_library_is_linked(machine, wheel):
    machine.finds(ONNXRuntime_LIBRARY="ONNXRuntime_LIBRARY-NOTFOUND", ONNXRuntime_INCLUDE_DIR="/usr/include")
    machine.says("refusal", "deploykit needs a runtime")
    entry = cpp_programs.build_programs(machine.project, RecordedProgress())
    assert (entry / "lib" / "libonnxruntime.so.1").resolve() == wheel


@pytest.mark.usefixtures("wheel")
def test_a_library_found_by_cmake_takes_precedence_over_the_wheels(machine):
    entry = cpp_programs.build_programs(machine.project, RecordedProgress())
    assert not (entry / "lib").exists()
    assert "ONNXRuntime_LIBRARY" not in (machine.state / "asked").read_text()


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("ONNXRuntime_INCLUDE_DIR", "the headers of ONNX Runtime's C API", "ONNXRuntime_ROOT"),
        ("nlohmann_json_DIR", "nlohmann_json", "nlohmann-json3-dev"),
        ("OPENSSL_CRYPTO_LIBRARY", "OpenSSL", "libssl-dev"),
        ("CMAKE_MAKE_PROGRAM", "make or ninja", "apt install cmake make"),
    ],
)
def test_a_missing_dependency_is_named_with_its_install_command(machine, name, what, remedy):
    machine.finds(**{name: f"{name}-NOTFOUND"})
    machine.says("refusal", "CMake Error")
    with pytest.raises(BackendError) as raised:
        cpp_programs.build_programs(machine.project, RecordedProgress())
    assert raised.value.what == f"The C++ programs need {what}, and CMake finds none on this machine."
    assert remedy in raised.value.remedy


def test_without_a_library_of_any_kind_the_wheel_is_named(machine, monkeypatch):
    monkeypatch.setattr(cpp_programs, "_wheel_library", lambda: None)
    machine.finds(ONNXRuntime_LIBRARY="ONNXRuntime_LIBRARY-NOTFOUND", ONNXRuntime_INCLUDE_DIR="/usr/include")
    machine.says("refusal", "CMake Error")
    with pytest.raises(BackendError, match=r"(?s)need ONNX Runtime's library.*The wheel has one too.*cpu"):
        cpp_programs.build_programs(machine.project, RecordedProgress())


def test_a_missing_compiler_is_reported(machine):
    machine.finds()
    machine.says("refusal", "CMake Error at CMakeLists.txt:2 (project):\n  No CMAKE_CXX_COMPILER could be found.")
    with pytest.raises(BackendError, match=r"need a compiler, .* apt install cmake make g\+\+"):
        cpp_programs.build_programs(machine.project, RecordedProgress())


def test_a_missing_cmake_is_reported(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"CMake is not installed.* apt install cmake"):
        cpp_programs.build_programs(machine.project, RecordedProgress())


def test_other_cmake_failures_show_its_output(machine):
    machine.says("refusal", "\n".join(f"line {number}" for number in range(100)))
    notes = RecordedProgress()
    with pytest.raises(BackendError, match="see its output above"):
        cpp_programs.build_programs(machine.project, notes)
    assert notes.notes == ["\n".join(f"line {number}" for number in range(70, 100))]


def test_a_compiler_failure_shows_its_output_and_caches_nothing(machine):
    machine.says("complaint", "main.cpp:1: error: expected ';'")
    notes = RecordedProgress()
    with pytest.raises(BackendError, match="could not be built"):
        cpp_programs.build_programs(machine.project, notes)
    assert notes.notes == ["main.cpp:1: error: expected ';'"]
    assert list((cache.cache_folder() / "native").iterdir()) == []
    (machine.state / "complaint").unlink()
    assert (cpp_programs.build_programs(machine.project, RecordedProgress()) / "program").exists()


def test_an_interrupted_build_leaves_no_files_and_no_processes(machine):
    machine.says("slow", "")
    words = (
        "import sys, contextlib; from pathlib import Path; from deploykit.core import cpp_programs as native\n"
        "class Silent:\n"
        "    def step(self, title, total=None): return contextlib.nullcontext()\n"
        f"project = native.CppProject(Path({str(machine.project.folder)!r}), (), (), ('program',))\n"
        "native.build_programs(project, Silent())"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    building, deadline = machine.state / "building", time.monotonic() + 60
    while not (building.exists() and building.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert list((cache.cache_folder() / "native").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(building.read_text()), 0)
