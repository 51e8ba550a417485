"""Programs in C++, built on this machine by CMake from the sources that this package ships, and kept in the cache.

Configuring costs less than a second and is done every time: only then is it known which compiler and which libraries
are there. A program is built again when one of these, or a source, is another than before.
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
from deploykit.core.files import sha256
from deploykit.core.values import Progress

SOURCES: Final = Path(__file__).parent / "cpp"
"""The C++ library: headers, sources, CMake package, examples."""

CMAKE_FOLDER: Final = SOURCES / "cmake"
"""Where find_package(deploykit) finds it."""

TOOLS: Final = "On Debian and Ubuntu: apt install cmake make g++ nlohmann-json3-dev libssl-dev."

SONAME: Final = "libonnxruntime.so.1"
"""What a program asks the loader for. The wheel of 1.31 has its library under the full version only."""

ONNXRUNTIME: Final = "ONNXRuntime_LIBRARY"
HEADERS: Final = "ONNXRuntime_INCLUDE_DIR"

LACKING: Final = {
    "CMAKE_MAKE_PROGRAM": ("make or ninja", TOOLS),
    HEADERS: (
        "the headers of ONNX Runtime's C API",
        "On Debian and Ubuntu: apt install libonnxruntime-dev, where the release has it; or unpack a release archive "
        "of ONNX Runtime and name its folder in the environment variable ONNXRuntime_ROOT.",
    ),
    ONNXRUNTIME: ("ONNX Runtime's library", "pip install 'deploykit[cpu]', or name a folder in ONNXRuntime_ROOT."),
    "nlohmann_json_DIR": ("nlohmann_json", TOOLS),
    "OPENSSL_INCLUDE_DIR": ("OpenSSL's headers", TOOLS),
    "OPENSSL_CRYPTO_LIBRARY": ("OpenSSL", TOOLS),
}
"""Entries of CMake's cache that say by NOTFOUND why it stopped: what is missing, and what to do."""

LINES_SHOWN: Final = 30
"""Of CMake or a compiler, where it failed: the reason stands at the end."""


class Project(NamedTuple):
    """What to build: a folder with a CMakeLists.txt, all folders that its programs are made of, and their names."""

    folder: Path
    sources: tuple[Path, ...]
    options: tuple[str, ...]
    programs: tuple[str, ...]


BENCH: Final = Project(
    SOURCES,
    tuple(SOURCES / name for name in ("CMakeLists.txt", "bench", "cmake", "include", "src")),
    ("-DDEPLOYKIT_BENCH=ON",),
    ("deploykit-bench", "deploykit-answer"),
)
"""The library as it is shipped, the program that measures it, and the one that says what it answers."""

ERRORS: Final = {error.exit_code: error for error in (CheckFailed, UsageError, InputError, BackendError, InternalError)}
"""The C++ library numbers its errors as the command line numbers its exit codes."""


def run(program: Path, *words: object) -> str:
    """What one of our programs prints. Errors of the C++ library are raised as ours of the same kind: BackendError also
    where the program cannot be loaded, InternalError also where it dies.
    """
    done = subprocess.run(
        (program, *map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise refusal(program.name, done.returncode, done.stderr)
    return done.stdout


def refusal(name: str, code: int, said: str) -> DeploykitError:
    """What a program of ours meant by ending so: the C++ library's error as ours of the same kind."""
    reason = " ".join(said.split()).removeprefix(f"{name}: ")
    if code < 0:
        return InternalError(f"{name} died by {signal.Signals(-code).name}. {reason}".strip(), "Report it.")
    return ERRORS.get(code, BackendError)(reason or f"{name} ended with exit code {code}.", "")


def build(project: Project, progress: Progress) -> Path:
    """The folder that holds a project's programs, built now or before.

    BackendError where CMake, a compiler, a library or its headers are missing, or where a source does not compile.
    """
    cmake = shutil.which("cmake")
    if cmake is None:
        raise BackendError("CMake is not installed, and the C++ programs are built on this machine.", TOOLS)
    with tempfile.TemporaryDirectory(prefix="deploykit-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        settings = _configured(cmake, project, folder, progress)

        def compiled(entry: Path) -> None:
            with progress.step(f"building {' and '.join(project.programs)}"):
                words = (cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1))
                done = _run((*words, "--target", *project.programs))
            if done.code != 0:
                progress.note(done.end)
                raise BackendError(
                    "The C++ programs could not be built: the compiler's own words stand above.",
                    "It must know C++17, and libraries and headers must be those of this machine.",
                )
            for program in project.programs:
                shutil.copy2(folder / program, entry / program)
            _link_library(settings, entry)

        return cache.fetch("native", {"sources": _digests(project.sources), **_here(folder, settings)}, compiled)


def _configured(cmake: str, project: Project, folder: Path, progress: Progress) -> dict[str, str]:
    """CMake's cache, behind a configuration that went well."""
    words = [cmake, "-S", str(project.folder), "-B", str(folder), *project.options]
    words += ["-DCMAKE_BUILD_TYPE=Release", "-DDEPLOYKIT_WERROR=OFF", r"-DCMAKE_BUILD_RPATH=$ORIGIN/lib"]
    if shutil.which("ninja") is not None and "CMAKE_GENERATOR" not in os.environ:
        words += ["-G", "Ninja"]
    done, settings = _run(words), _settings(folder)
    if _missing(settings, ONNXRUNTIME) and not _missing(settings, HEADERS) and (wheel := _wheel_library()) is not None:
        done = _run([*words, f"-D{ONNXRUNTIME}={wheel}"])
        settings = _settings(folder)
    if done.code != 0:
        raise _explained(done, settings, progress)
    return settings


def _settings(folder: Path) -> dict[str, str]:
    """CMake's cache by name; empty where it stopped before it wrote one."""
    try:
        lines = (folder / "CMakeCache.txt").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found = (re.fullmatch(r"([^#/:=][^:=]*):[A-Z]+=(.*)", line) for line in lines)
    return {each[1]: each[2] for each in found if each is not None and not each[1].endswith("-ADVANCED")}


def _missing(settings: Mapping[str, str], name: str) -> bool:
    return settings.get(name, "").endswith("-NOTFOUND")


def _wheel_library() -> Path | None:
    """The library inside the Python package onnxruntime, which has one of its own since 1.31; never imported."""
    spec = importlib.util.find_spec("onnxruntime")
    places = (spec.submodule_search_locations or ()) if spec is not None else ()
    found = (path for place in places for path in sorted(Path(place, "capi").glob("libonnxruntime.so.*")))
    return next(found, None)


def _link_library(settings: Mapping[str, str], entry: Path) -> None:
    """Give the wheel's library the name that the loader looks for, where the program looks first."""
    library = Path(settings.get(ONNXRUNTIME, ""))
    if library.is_file() and not (library.parent / SONAME).exists():
        (entry / "lib").mkdir()
        (entry / "lib" / SONAME).symlink_to(library.resolve())


def _here(folder: Path, settings: Mapping[str, str]) -> dict[str, object]:
    """What of this machine determines a build: all that CMake found and was told, the compiler's version, and the
    files of tools and libraries, by size and time.
    """
    told = {name: value for name, value in settings.items() if str(folder) not in value}
    files = {value: path.stat() for value in told.values() if value.startswith("/") and (path := Path(value)).is_file()}
    compiler = [sha256(path) for path in sorted(folder.glob("CMakeFiles/*/CMakeCXXCompiler.cmake"))]
    stamps = {path: (status.st_size, status.st_mtime_ns) for path, status in files.items()}
    return {"settings": told, "files": stamps, "compiler": compiler}


def _digests(sources: Sequence[Path]) -> list[str]:
    """Of every file below these places, its name and its content."""
    return [
        f"{path.relative_to(source.parent)} {sha256(path)}"
        for source in sources
        for path in (source, *sorted(source.rglob("*")))
        if path.is_file()
    ]


class Done(NamedTuple):
    """How a tool ended, and all that it said."""

    code: int
    output: str

    @property
    def end(self) -> str:
        """The last lines."""
        return "\n".join([line for line in self.output.splitlines() if line.strip()][-LINES_SHOWN:])


def _run(words: Sequence[str]) -> Done:
    """Run a tool to its end. Where we are interrupted, it and all that it started end too."""
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    ) as started:  # fmt: skip
        try:
            output, _ = started.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            raise
    return Done(started.returncode, output)


def _explained(done: Done, settings: Mapping[str, str], progress: Progress) -> BackendError:
    """Why CMake stopped, in words."""
    lacking = [LACKING[name] for name in LACKING if _missing(settings, name)]
    if lacking:
        what, remedy = lacking[0]
        return BackendError(f"The C++ programs need {what}, and CMake finds none on this machine.", remedy)
    if re.search(r"No CMAKE_CXX_COMPILER could be found|CMAKE_CXX_COMPILER not set", done.output):
        named = f": CXX={os.environ['CXX']} names none" if "CXX" in os.environ else ""
        return BackendError(f"The C++ programs need a compiler, and CMake finds none on this machine{named}.", TOOLS)
    progress.note(done.end)
    return BackendError("CMake cannot configure the C++ programs: its own words stand above.", "Mend what they name.")
