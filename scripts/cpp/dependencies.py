"""Installs the libraries and headers of the C++ checks into a folder, from Debian's and PyPI's packages.

    onnxruntime/{x86_64,aarch64}/{include,lib}   headers of Debian's libonnxruntime-dev, libraries of the Python wheels
    sysroot-aarch64/usr/…                        OpenSSL, nlohmann_json and doctest for 64-bit ARM
    tensorrt/{include,lib}                       NVIDIA's headers, and its lean runtime, linked without a driver
    cuda/{include,lib}                           the CUDA runtime

A part is complete or missing, and its file `made-of` names its packages: a second call fetches nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.errors import BackendError
from deploykit.core.files import stage_folder

TOOLS: Final = (
    *("cmake", "ninja-build", "clang", "libclang-rt-dev", "clang-format", "clang-tidy"),
    *("g++", "g++-aarch64-linux-gnu", "qemu-user"),
    *("libssl-dev", "nlohmann-json3-dev", "doctest-dev", "libstb-dev"),
)
"""Debian packages with programs and headers of the checks."""

HEADERS_SUITE: Final = "trixie"
"""The first Debian with ONNX Runtime: its headers suit any C++17 compiler, its library does not suit older suites."""

HEADERS: Final = "libonnxruntime-dev"
FOR_ARM: Final = ("libssl-dev", "libssl3", "nlohmann-json3-dev", "doctest-dev")

WITH_LIBRARY: Final = (1, 31)
"""From this version on, onnxruntime's wheel has libonnxruntime.so; before, it was part of the Python module."""

TENSORRT_HEADERS: Final = "kernel-lens==2.0.1"
TENSORRT: Final = "tensorrt-lean-cu13-libs==10.15.1.29"
CUDA: Final = ("nvidia-cuda-runtime==13.5.37", "nvidia-cuda-crt==13.5.37")

STAMP: Final = "made-of"


class Part(NamedTuple):
    """A folder of the installation, the packages that it is made of, and the function that makes it."""

    folder: str
    made_of: tuple[str, ...]
    make: Callable[[Path], None]


def list_parts() -> Iterator[Part]:
    yield Part("onnxruntime", (f"{HEADERS} of {HEADERS_SUITE}", require_onnxruntime()), install_onnxruntime)
    yield Part("sysroot-aarch64", (*FOR_ARM, f"of {read_codename()}"), install_arm_sysroot)
    yield Part("tensorrt", (TENSORRT_HEADERS, TENSORRT), install_tensorrt)
    yield Part("cuda", CUDA, install_cuda)


def install_dependencies(root: Path) -> list[str]:
    """Make the parts that are missing or were made of other packages; returns their folders. BackendError where that
    fails.
    """
    if platform.machine() != "x86_64":
        raise BackendError(f"The C++ checks are for x86-64, and this is {platform.machine()}.", "Run them elsewhere.")
    install_tools()
    installed_parts = []
    for part in list_parts():
        stamp = "\n".join(part.made_of) + "\n"
        file = root / part.folder / STAMP
        if file.is_file() and file.read_text(encoding="utf-8") == stamp:
            continue
        with stage_folder(root / part.folder) as folder:
            part.make(folder)
            (folder / STAMP).write_text(stamp, encoding="utf-8")
        installed_parts.append(part.folder)
    return installed_parts


# ── The parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def install_onnxruntime(folder: Path) -> None:
    """The headers are the same for all processors; the library for this one is the environment's own."""
    with unpack_packages("amd64", HEADERS_SUITE, HEADERS) as content:
        for name in ("x86_64", "aarch64"):
            shutil.copytree(content / "usr/include/onnxruntime", folder / name / "include")
    copy_onnxruntime(
        Path(str(importlib.metadata.distribution("onnxruntime").locate_file("onnxruntime"))), folder / "x86_64"
    )
    with unpack_wheels(require_onnxruntime(), words=("--platform", "manylinux_2_28_aarch64")) as content:
        copy_onnxruntime(content / "onnxruntime", folder / "aarch64")


def copy_onnxruntime(package: Path, folder: Path) -> None:
    """The library of the Python package, under the names that linkers and loaders use."""
    (library,) = package.glob("capi/libonnxruntime.so.*")
    (folder / "lib").mkdir()
    shutil.copy(library, folder / "lib")
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        (folder / "lib" / name).symlink_to(library.name)


def require_onnxruntime() -> str:
    """The version of the environment that exports the bundles, so that both sides run the same library."""
    version = importlib.metadata.version("onnxruntime")
    if tuple(int(number) for number in version.split(".")[:2]) < WITH_LIBRARY:
        raise BackendError(
            f"The Python package onnxruntime {version} has no library to link.",
            f"Version {'.'.join(map(str, WITH_LIBRARY))} or newer has one; it needs Python 3.11 or newer.",
        )
    return f"onnxruntime=={version}"


def install_arm_sysroot(folder: Path) -> None:
    with unpack_packages("arm64", read_codename(), *FOR_ARM) as content:
        shutil.copytree(content / "usr", folder / "usr", symlinks=True)


def install_tensorrt(folder: Path) -> None:
    with unpack_wheels(TENSORRT_HEADERS, TENSORRT) as content:
        shutil.copytree(content / "kernel_lens/include/tensorrt", folder / "include")
        library = content / "tensorrt_lean_libs/libnvinfer_lean.so.10"
        (folder / "lib").mkdir()
        shutil.move(library, folder / "lib")
        (folder / "lib/libnvinfer_lean.so").symlink_to(library.name)


def install_cuda(folder: Path) -> None:
    with unpack_wheels(*CUDA) as content:
        shutil.copytree(content / "nvidia/cu13/include", folder / "include")
        (library,) = (content / "nvidia/cu13/lib").glob("libcudart.so.*")
        (folder / "lib").mkdir()
        shutil.copy(library, folder / "lib")
        (folder / "lib/libcudart.so").symlink_to(library.name)


# ── Debian's packages ───────────────────────────────────────────────────────────────────────────────────────────────


def install_tools() -> None:
    """With apt-get as root; otherwise BackendError with the command to type."""
    missing = [name for name in TOOLS if not is_installed(name)]
    if not missing:
        return
    line = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
    if os.geteuid() != 0:
        raise BackendError("Packages for the C++ checks are missing.", f"Install them: sudo {' '.join(line)}")
    run_command("apt-get", "update", "--quiet")
    run_command(*line, "--quiet", environment={"DEBIAN_FRONTEND": "noninteractive"})


def is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        raise BackendError("The C++ checks need Debian's packages, and this system has no dpkg.", "Run them on Debian.")
    words = ("dpkg-query", "--show", "--showformat", "${db:Status-Status}", package)
    return subprocess.run(words, capture_output=True, text=True).stdout == "installed"


def read_codename() -> str:
    """`bookworm`."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        raise BackendError(
            f"The C++ checks fetch Debian's packages, and this system is {release['PRETTY_NAME']}.",
            "Run them on Debian, in a container for one; the library itself builds on any Linux.",
        )
    return release["VERSION_CODENAME"]


@contextmanager
def unpack_packages(architecture: str, suite: str, *names: str) -> Iterator[Path]:
    """The contents of packages of another architecture or suite, in a folder that is removed with the block."""
    with tempfile.TemporaryDirectory() as work:
        sources, lists, cache, content = (Path(work) / name for name in ("sources", "lists", "cache", "content"))
        for folder in (sources, lists / "partial", cache / "archives/partial", content):
            folder.mkdir(parents=True)
        (sources / "one.sources").write_text(find_archive().describe(suite), encoding="utf-8")
        settings = (
            *(f"APT::Architecture={architecture}", f"APT::Architectures={architecture}", "APT::Sandbox::User=root"),
            *("Dir::Etc::SourceList=/dev/null", f"Dir::Etc::SourceParts={sources}", "Acquire::Languages=none"),
            *(f"Dir::State::Lists={lists}", f"Dir::Cache={cache}", "Dir::State::status=/dev/null"),
        )
        apt = ("apt-get", "--quiet", *(word for setting in settings for word in ("-o", setting)))
        run_command(*apt, "update", folder=cache)
        run_command(*apt, "download", *names, folder=cache)
        for package in cache.glob("*.deb"):
            run_command("dpkg-deb", "--extract", package, content)
        yield content


class Archive(NamedTuple):
    """The archive of this machine's Debian."""

    uri: str
    signed_by: str | None

    def describe(self, suite: str) -> str:
        """A sources file for another suite of the same archive."""
        signed = f"Signed-By: {self.signed_by}\n" if self.signed_by else ""
        return f"Types: deb\nURIs: {self.uri}\nSuites: {suite}\nComponents: main\n{signed}"


def find_archive() -> Archive:
    """The first source of this machine with the suite that runs here."""
    folder = Path("/etc/apt")
    for file in sorted(folder.glob("sources.list.d/*.sources")):
        for stanza in file.read_text(encoding="utf-8").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Za-z-]+: ", line))
            if read_codename() in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                return Archive(fields["URIs"].split()[0], fields.get("Signed-By"))
    for file in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if match := re.search(rf"^deb (?:\[(.*?)\] )?(\S+) {read_codename()} (?:.* )?main\b", text, re.MULTILINE):
            signed = re.search(r"signed-by=(\S+)", match[1] or "")
            return Archive(match[2], signed[1] if signed else None)
    raise BackendError(f"No source in {folder} has Debian's {read_codename()}.", "Add its archive there.")


# ── PyPI's packages ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def unpack_wheels(*requirements: str, words: Sequence[str] = ()) -> Iterator[Path]:
    """The contents of the wheels, without dependencies, in a folder that is removed with the block."""
    with tempfile.TemporaryDirectory() as work:
        wheels, content = Path(work) / "wheels", Path(work) / "content"
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input")
        run_command(*pip, "--no-deps", "--only-binary", ":all:", "--dest", wheels, *words, *requirements)
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as file:
                file.extractall(content)
        yield content


def run_command(*words: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Run it, with its output on standard error. BackendError where it fails."""
    result = subprocess.run(words, cwd=folder, env={**os.environ, **(environment or {})}, stdout=sys.stderr)
    if result.returncode != 0:
        raise BackendError(
            f"`{' '.join(map(str, words))}` failed, for the reason printed above.", "Run this again to retry."
        )
