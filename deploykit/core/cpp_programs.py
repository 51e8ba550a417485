"""Build and run C++ programs: compiled on this machine by CMake from the sources in this package, and cached.

CMake configures the project every time, in less than a second, since only that shows which compiler and libraries are
installed. A program is built again if one of these, or a source file, has changed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core import cache
from deploykit.core.errors import BackendError, CheckFailed, DeploykitError, InputError, InternalError, UsageError
from deploykit.core.extras import install_command
from deploykit.core.files import hash_file
from deploykit.core.values import Progress

SOURCES: Final = Path(__file__).parents[1] / "cpp"
"""The C++ library: headers, sources, CMake package and examples."""

CMAKE_FOLDER: Final = SOURCES / "cmake"
"""Folder of the CMake package, for find_package(deploykit)."""

INSTALL_TOOLS: Final = "On Debian and Ubuntu: apt install cmake make g++ nlohmann-json3-dev libssl-dev."

SONAME: Final = "libonnxruntime.so.1"
"""Library name that a program requests from the dynamic loader. The wheel of 1.31 has only the full version's name."""

ONNXRUNTIME: Final = "ONNXRuntime_LIBRARY"
HEADERS: Final = "ONNXRuntime_INCLUDE_DIR"

MISSING_DEPENDENCIES: Final = {
    "CMAKE_MAKE_PROGRAM": ("make or ninja", INSTALL_TOOLS),
    HEADERS: (
        "the headers of ONNX Runtime's C API",
        "On Debian and Ubuntu: apt install libonnxruntime-dev, where the release has it; or unpack a release archive "
        "of ONNX Runtime and name its folder in the environment variable ONNXRuntime_ROOT.",
    ),
    ONNXRUNTIME: ("ONNX Runtime's library", "Name its folder in the environment variable ONNXRuntime_ROOT."),
    "nlohmann_json_DIR": ("nlohmann_json", INSTALL_TOOLS),
    "OPENSSL_INCLUDE_DIR": ("OpenSSL's headers", INSTALL_TOOLS),
    "OPENSSL_CRYPTO_LIBRARY": ("OpenSSL", INSTALL_TOOLS),
}
"""CMake cache entries that end in NOTFOUND if a dependency is missing, with its name and remedy."""

LINES_SHOWN: Final = 30
"""Number of output lines shown if CMake or the compiler fails: the reason is at the end."""


class CppProject(NamedTuple):
    """A CMake project: its folder, all source folders of its programs, CMake options and program names."""

    folder: Path
    sources: tuple[Path, ...]
    options: tuple[str, ...]
    programs: tuple[str, ...]


BENCH: Final = CppProject(
    SOURCES,
    tuple(SOURCES / name for name in ("CMakeLists.txt", "bench", "cmake", "include", "src")),
    ("-DDEPLOYKIT_BENCH=ON",),
    ("deploykit-bench", "deploykit-answer"),
)
"""The shipped library, the program that measures latency, and the program that computes outputs."""

ERRORS: Final = {error.exit_code: error for error in (CheckFailed, UsageError, InputError, BackendError, InternalError)}
"""Error class by exit code; the C++ library's error codes are the command line's exit codes."""


def run_program(program: Path, *arguments: object) -> str:
    """Run one of our programs and return its stdout. Errors of the C++ library are raised as the Python error of the
    same code; BackendError also if the program cannot be loaded, InternalError also if it is killed by a signal.
    """
    done = subprocess.run(
        (program, *map(str, arguments)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise translate_failure(program.name, done.returncode, done.stderr)
    return done.stdout


def translate_failure(name: str, code: int, stderr: str) -> DeploykitError:
    """Translate a program's exit code and stderr to the Python error of the same code."""
    reason = " ".join(stderr.split()).removeprefix(f"{name}: ")
    if code < 0:
        return InternalError(f"{name} was killed by {signal.Signals(-code).name}. {reason}".strip(), "Report it.")
    return ERRORS.get(code, BackendError)(reason or f"{name} ended with exit code {code}.", "")


def build_programs(project: CppProject, progress: Progress) -> Path:
    """Build a project's programs if they are not cached, and return their folder.

    BackendError if CMake, a compiler, a library or its headers are missing, or if a source does not compile.
    """
    cmake = shutil.which("cmake")
    if cmake is None:
        raise BackendError("The C++ programs are built on this machine, and CMake is not installed.", INSTALL_TOOLS)
    with tempfile.TemporaryDirectory(prefix="deploykit-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        settings = _configure_project(cmake, project, folder, progress)

        def compile_programs(entry: Path) -> None:
            with progress.step(f"building {' and '.join(project.programs)}"):
                command = (cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1))
                result = _run_tool((*command, "--target", *project.programs))
            if result.code != 0:
                progress.note(result.last_lines)
                raise BackendError(
                    "The C++ programs could not be built: see the compiler's output above.",
                    "The compiler must support C++17, and libraries and headers must match this machine.",
                )
            for program in project.programs:
                shutil.copy2(folder / program, entry / program)
            _link_library(settings, entry)

        return cache.fetch_or_build(
            "native",
            {"sources": _digest_sources(project.sources), **_describe_environment(folder, settings)},
            compile_programs,
        )


def _configure_project(cmake: str, project: CppProject, folder: Path, progress: Progress) -> dict[str, str]:
    """Configure the project, and return CMake's cache."""
    command = [cmake, "-S", str(project.folder), "-B", str(folder), *project.options]
    command += ["-DCMAKE_BUILD_TYPE=Release", "-DDEPLOYKIT_WERROR=OFF", r"-DCMAKE_BUILD_RPATH=$ORIGIN/lib"]
    if shutil.which("ninja") is not None and "CMAKE_GENERATOR" not in os.environ:
        command += ["-G", "Ninja"]
    result, settings = _run_tool(command), _read_settings(folder)
    if (
        _is_missing(settings, ONNXRUNTIME)
        and not _is_missing(settings, HEADERS)
        and (wheel := _wheel_library()) is not None
    ):
        result = _run_tool([*command, f"-D{ONNXRUNTIME}={wheel}"])
        settings = _read_settings(folder)
    if result.code != 0:
        raise _explain_failure(result, settings, progress)
    return settings


def _read_settings(folder: Path) -> dict[str, str]:
    """Read CMake's cache by name; empty if CMake stopped before it wrote one."""
    try:
        lines = (folder / "CMakeCache.txt").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    entries = (re.fullmatch(r"([^#/:=][^:=]*):[A-Z]+=(.*)", line) for line in lines)
    return {entry[1]: entry[2] for entry in entries if entry is not None and not entry[1].endswith("-ADVANCED")}


def _is_missing(settings: Mapping[str, str], name: str) -> bool:
    return settings.get(name, "").endswith("-NOTFOUND")


def _wheel_library() -> Path | None:
    """The shared library in the Python package onnxruntime, which has one since 1.31; the package is not imported."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    paths = (path for folder in folders for path in sorted(Path(folder, "capi").glob("libonnxruntime.so.*")))
    return next(paths, None)


def _link_library(settings: Mapping[str, str], entry: Path) -> None:
    """Link the wheel's library under the name that the dynamic loader searches for, in the program's RPATH."""
    library = Path(settings.get(ONNXRUNTIME, ""))
    if library.is_file() and not (library.parent / SONAME).exists():
        (entry / "lib").mkdir()
        (entry / "lib" / SONAME).symlink_to(library.resolve())


def _describe_environment(folder: Path, settings: Mapping[str, str]) -> dict[str, object]:
    """Everything on this machine that determines a build: CMake's settings, the compiler's version, and size and time
    of the tools and libraries.
    """
    stable = {name: value for name, value in settings.items() if str(folder) not in value}
    paths = (value for value in stable.values() if value.startswith("/"))
    files = {value: path.stat() for value in paths if (path := Path(value)).is_file()}
    compiler = [hash_file(path) for path in sorted(folder.glob("CMakeFiles/*/CMakeCXXCompiler.cmake"))]
    stamps = {path: (status.st_size, status.st_mtime_ns) for path, status in files.items()}
    return {"settings": stable, "files": stamps, "compiler": compiler}


def _digest_sources(sources: Sequence[Path]) -> list[str]:
    """Name and digest of every source file."""
    return [
        f"{path.relative_to(source.parent)} {hash_file(path)}"
        for source in sources
        for path in (source, *sorted(source.rglob("*")))
        if path.is_file()
    ]


class ToolResult(NamedTuple):
    """Exit code and output of a tool."""

    code: int
    output: str

    @property
    def last_lines(self) -> str:
        """The last lines of the output."""
        return "\n".join([line for line in self.output.splitlines() if line.strip()][-LINES_SHOWN:])


def _run_tool(command: Sequence[str]) -> ToolResult:
    """Run a tool to its end. If this process is interrupted, the tool and its children are killed."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return ToolResult(process.returncode, output)


def _explain_failure(result: ToolResult, settings: Mapping[str, str], progress: Progress) -> BackendError:
    """Explain why CMake stopped."""
    missing = [MISSING_DEPENDENCIES[name] for name in MISSING_DEPENDENCIES if _is_missing(settings, name)]
    if missing:
        what, remedy = missing[0]
        if missing[0] == MISSING_DEPENDENCIES[ONNXRUNTIME]:
            remedy += f" The wheel has one too:\n  {install_command('cpu')}"
        return BackendError(f"The C++ programs need {what}, and CMake finds none on this machine.", remedy)
    if re.search(r"No CMAKE_CXX_COMPILER could be found|CMAKE_CXX_COMPILER not set", result.output):
        setting = f": CXX={os.environ['CXX']} is not a compiler" if "CXX" in os.environ else ""
        return BackendError(
            f"The C++ programs need a compiler, and CMake finds none on this machine{setting}.", INSTALL_TOOLS
        )
    progress.note(result.last_lines)
    return BackendError("CMake cannot configure the C++ programs: see its output above.", "Fix what it reports.")
