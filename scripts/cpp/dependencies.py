"""What the C++ checks build against, laid out in a folder: Debian's and PyPI's packages, fetched by name.

    onnxruntime/{x86_64,aarch64}/{include,lib}   headers of Debian's libonnxruntime-dev, libraries of the Python wheels
    sysroot-aarch64/usr/…                        OpenSSL, nlohmann_json and doctest for 64-bit ARM
    tensorrt/{include,lib}                       NVIDIA's headers, and its lean runtime, linked without a driver
    cuda/{include,lib}                           the CUDA runtime

A part is there whole or not at all, and says in `made-of` what it was made of: a second call fetches nothing.
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
from deploykit.core.files import staged

TOOLS: Final = (
    *("cmake", "ninja-build", "clang", "libclang-rt-dev", "clang-format", "clang-tidy"),
    *("g++", "g++-aarch64-linux-gnu", "qemu-user"),
    *("libssl-dev", "nlohmann-json3-dev", "doctest-dev", "libstb-dev"),
)
"""Debian packages that the checks run or include."""

HEADERS_SUITE: Final = "trixie"
"""The first Debian with ONNX Runtime: its headers are for any C++17 compiler, its library is not for older suites."""

HEADERS: Final = "libonnxruntime-dev"
FOR_ARM: Final = ("libssl-dev", "libssl3", "nlohmann-json3-dev", "doctest-dev")

WITH_LIBRARY: Final = (1, 31)
"""From this version on, onnxruntime's wheel has libonnxruntime.so; before, it was inside Python's module."""

TENSORRT_HEADERS: Final = "kernel-lens==2.0.1"
TENSORRT: Final = "tensorrt-lean-cu13-libs==10.15.1.29"
CUDA: Final = ("nvidia-cuda-runtime==13.5.37", "nvidia-cuda-crt==13.5.37")

STAMP: Final = "made-of"


class Part(NamedTuple):
    """A folder of the layout, what it is made of, and how."""

    folder: str
    made_of: tuple[str, ...]
    make: Callable[[Path], None]


def parts() -> Iterator[Part]:
    yield Part("onnxruntime", (f"{HEADERS} of {HEADERS_SUITE}", onnxruntime_wheel()), onnxruntime)
    yield Part("sysroot-aarch64", (*FOR_ARM, f"of {codename()}"), sysroot_for_arm)
    yield Part("tensorrt", (TENSORRT_HEADERS, TENSORRT), tensorrt)
    yield Part("cuda", CUDA, cuda)


def lay_out(root: Path) -> list[str]:
    """Make what is missing or was made of something else; the folders that were made. BackendError where that fails."""
    if platform.machine() != "x86_64":
        raise BackendError(f"The C++ checks are for x86-64, and this is {platform.machine()}.", "Run them elsewhere.")
    install_tools()
    made = []
    for part in parts():
        stamp = "\n".join(part.made_of) + "\n"
        file = root / part.folder / STAMP
        if file.is_file() and file.read_text(encoding="utf-8") == stamp:
            continue
        with staged(root / part.folder) as folder:
            part.make(folder)
            (folder / STAMP).write_text(stamp, encoding="utf-8")
        made.append(part.folder)
    return made


# ── The parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def onnxruntime(folder: Path) -> None:
    """The headers are one for all processors; the library for this one is the environment's own."""
    with fetched_packages("amd64", HEADERS_SUITE, HEADERS) as content:
        for name in ("x86_64", "aarch64"):
            shutil.copytree(content / "usr/include/onnxruntime", folder / name / "include")
    place(Path(str(importlib.metadata.distribution("onnxruntime").locate_file("onnxruntime"))), folder / "x86_64")
    with fetched_wheels(onnxruntime_wheel(), words=("--platform", "manylinux_2_28_aarch64")) as content:
        place(content / "onnxruntime", folder / "aarch64")


def place(package: Path, folder: Path) -> None:
    """The library of a Python package, under the names that linkers and loaders ask for."""
    (library,) = package.glob("capi/libonnxruntime.so.*")
    (folder / "lib").mkdir()
    shutil.copy(library, folder / "lib")
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        (folder / "lib" / name).symlink_to(library.name)


def onnxruntime_wheel() -> str:
    """That of the environment that exports the bundles, so that both sides run the same library."""
    version = importlib.metadata.version("onnxruntime")
    if tuple(int(number) for number in version.split(".")[:2]) < WITH_LIBRARY:
        raise BackendError(
            f"The Python package onnxruntime {version} has no library to link.",
            f"Version {'.'.join(map(str, WITH_LIBRARY))} or newer has one; it needs Python 3.11 or newer.",
        )
    return f"onnxruntime=={version}"


def sysroot_for_arm(folder: Path) -> None:
    with fetched_packages("arm64", codename(), *FOR_ARM) as content:
        shutil.copytree(content / "usr", folder / "usr", symlinks=True)


def tensorrt(folder: Path) -> None:
    with fetched_wheels(TENSORRT_HEADERS, TENSORRT) as content:
        shutil.copytree(content / "kernel_lens/include/tensorrt", folder / "include")
        library = content / "tensorrt_lean_libs/libnvinfer_lean.so.10"
        (folder / "lib").mkdir()
        shutil.move(library, folder / "lib")
        (folder / "lib/libnvinfer_lean.so").symlink_to(library.name)


def cuda(folder: Path) -> None:
    with fetched_wheels(*CUDA) as content:
        shutil.copytree(content / "nvidia/cu13/include", folder / "include")
        (library,) = (content / "nvidia/cu13/lib").glob("libcudart.so.*")
        (folder / "lib").mkdir()
        shutil.copy(library, folder / "lib")
        (folder / "lib/libcudart.so").symlink_to(library.name)


# ── Debian's packages ───────────────────────────────────────────────────────────────────────────────────────────────


def install_tools() -> None:
    """With apt-get where that is allowed; BackendError with the line to type where it is not."""
    missing = [name for name in TOOLS if not installed(name)]
    if not missing:
        return
    line = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
    if os.geteuid() != 0:
        raise BackendError("Programs for the C++ checks are missing.", f"Type: sudo {' '.join(line)}")
    call("apt-get", "update", "--quiet")
    call(*line, "--quiet", environment={"DEBIAN_FRONTEND": "noninteractive"})


def installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        raise BackendError("The C++ checks need Debian's packages, and this system has no dpkg.", "Run them on Debian.")
    words = ("dpkg-query", "--show", "--showformat", "${db:Status-Status}", package)
    return subprocess.run(words, capture_output=True, text=True).stdout == "installed"


def codename() -> str:
    """`bookworm`."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        raise BackendError(
            f"The C++ checks fetch Debian's packages, and this system is {release['PRETTY_NAME']}.",
            "Run them on Debian, in a container for one; the library itself builds on any Linux.",
        )
    return release["VERSION_CODENAME"]


@contextmanager
def fetched_packages(architecture: str, suite: str, *names: str) -> Iterator[Path]:
    """What the packages of another architecture or suite hold, unpacked and not installed; gone with the block."""
    with tempfile.TemporaryDirectory() as work:
        sources, lists, cache, content = (Path(work) / name for name in ("sources", "lists", "cache", "content"))
        for folder in (sources, lists / "partial", cache / "archives/partial", content):
            folder.mkdir(parents=True)
        (sources / "one.sources").write_text(archive().of(suite), encoding="utf-8")
        settings = (
            *(f"APT::Architecture={architecture}", f"APT::Architectures={architecture}", "APT::Sandbox::User=root"),
            *("Dir::Etc::SourceList=/dev/null", f"Dir::Etc::SourceParts={sources}", "Acquire::Languages=none"),
            *(f"Dir::State::Lists={lists}", f"Dir::Cache={cache}", "Dir::State::status=/dev/null"),
        )
        apt = ("apt-get", "--quiet", *(word for setting in settings for word in ("-o", setting)))
        call(*apt, "update", folder=cache)
        call(*apt, "download", *names, folder=cache)
        for package in cache.glob("*.deb"):
            call("dpkg-deb", "--extract", package, content)
        yield content


class Archive(NamedTuple):
    """Where this machine's Debian comes from."""

    uri: str
    signed_by: str | None

    def of(self, suite: str) -> str:
        """A sources file for any suite of the same archive."""
        signed = f"Signed-By: {self.signed_by}\n" if self.signed_by else ""
        return f"Types: deb\nURIs: {self.uri}\nSuites: {suite}\nComponents: main\n{signed}"


def archive() -> Archive:
    """The first source of this machine that has the suite that runs here."""
    folder = Path("/etc/apt")
    for file in sorted(folder.glob("sources.list.d/*.sources")):
        for stanza in file.read_text(encoding="utf-8").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Za-z-]+: ", line))
            if codename() in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                return Archive(fields["URIs"].split()[0], fields.get("Signed-By"))
    for file in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if found := re.search(rf"^deb (?:\[(.*?)\] )?(\S+) {codename()} (?:.* )?main\b", text, re.MULTILINE):
            signed = re.search(r"signed-by=(\S+)", found[1] or "")
            return Archive(found[2], signed[1] if signed else None)
    raise BackendError(f"No source under {folder} has Debian's {codename()}.", "Name its archive there.")


# ── PyPI's packages ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def fetched_wheels(*requirements: str, words: Sequence[str] = ()) -> Iterator[Path]:
    """What the wheels hold, without what they depend on; gone with the block."""
    with tempfile.TemporaryDirectory() as work:
        wheels, content = Path(work) / "wheels", Path(work) / "content"
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input")
        call(*pip, "--no-deps", "--only-binary", ":all:", "--dest", wheels, *words, *requirements)
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as file:
                file.extractall(content)
        yield content


def call(*words: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Run it, with what it says on standard error. BackendError where it fails."""
    done = subprocess.run(words, cwd=folder, env={**os.environ, **(environment or {})}, stdout=sys.stderr)
    if done.returncode != 0:
        raise BackendError(
            f"`{' '.join(map(str, words))}` failed; its reason stands above.", "The next call tries again."
        )
