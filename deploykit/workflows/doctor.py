"""What this machine can do, asked without importing anything heavy."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from deploykit.backends import BACKENDS, installed
from deploykit.backends.tensorrt.driver import Driver, driver
from deploykit.core import cache
from deploykit.core.errors import UsageError
from deploykit.core.provenance import processor
from deploykit.core.values import Finding
from deploykit.evaluate.latency import jetson

ROOT: Final = Path("/")
"""Where Linux's own files are looked for."""

CORE: Final = ("numpy", "pillow", "msgspec")

EXTRAS: Final = {
    **dict.fromkeys(
        ("torch", "torchvision", "onnxscript", "safetensors"), ("deploykit export, deploykit parity", "export")
    ),
    **dict.fromkeys(("onnx", "onnx-ir"), ("engines built from graphs, deploykit inspect", "compile")),
    **dict.fromkeys(("jinja2", "matplotlib"), ("reports", "compile")),
    "scikit-learn": ("the set `digits`", "datasets"),
    "scikit-image": ("the set `photos`", "datasets"),
    "pycuda": ("running TensorRT engines", "gpu"),
    "cuda-bindings": ("CUDA graphs", "gpu"),
    "nvidia-ml-py": ("clocks, temperature and power beside a GPU's latencies", "gpu"),
    "mlcommons-loadgen": ("bench --loadgen, MLPerf's scenarios", "loadgen"),
}
"""What each is needed for, and the extra that brings it."""

TENSORRT: Final = ("tensorrt", "tensorrt-rtx")


class Tool(NamedTuple):
    """A program that is needed for something, and the command of Debian and Ubuntu that installs it."""

    program: str
    use: str
    install: str


TOOLS: Final = {
    "CUDA toolkit": Tool("nvcc", "C++ applications with TensorRT", "sudo apt install nvidia-cuda-toolkit"),
    "cmake": Tool("cmake", "C++ applications", "sudo apt install cmake"),
    "g++": Tool("g++", "C++ applications, where clang is not", "sudo apt install g++"),
    "clang": Tool("clang++", "C++ applications, where g++ is not", "sudo apt install clang"),
}

PATIENCE_S: Final = 2.5
"""How long children may take, all at once: tensorrt_rtx 1.7.1 takes 0.1 s to be imported from a warm disk."""

DISK_GIB: Final = 5.0
"""Below this, exports of large networks may not fit with their cache entries."""


def examine() -> tuple[Finding, ...]:
    """Every finding, in the order in which they matter."""
    imports = {name: _importing(name) for name in TENSORRT if installed(name)}  # they run while the rest is looked at
    found = {name: shutil.which(tool.program) for name, tool in TOOLS.items()}
    tools = {name: _started([path, "--version"]) for name, path in found.items() if path is not None}
    here = driver()
    rest = (*_extras(), _gpu(here), *_jetson(), *_tools(tools), _machine(), _disk(), _cache())
    return (_python(), *_core(), *_backends(imports, here), *rest)


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _core() -> Iterator[Finding]:
    for name in CORE:
        version = _version(name)
        if version is None:
            yield Finding(name, "broken", "not installed", "pip install deploykit")
        else:
            yield Finding(name, "ok", version)


def _backends(imports: dict[str, Child], here: Driver) -> Iterator[Finding]:
    for name, entry in BACKENDS.items():
        if not installed(name):
            yield Finding(name, "missing", f"{entry.requires} is not installed", entry.install)
        elif name == "onnxruntime":
            yield _onnxruntime()
        elif name in imports:
            yield _tensorrt(name, imports[name], here)
        else:
            yield Finding(name, "ok", _origin(entry.requires))


def _onnxruntime() -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) is not None]
    if len(both) == 2:
        mend = "pip uninstall onnxruntime onnxruntime-gpu, then install the one you need"
        return Finding("onnxruntime", "broken", "two packages own the import name: " + " and ".join(both), mend)
    return Finding("onnxruntime", "ok", " ".join(f"{_version(name)} ({name})" for name in both) or "of unknown origin")


class Child(NamedTuple):
    """A process that was asked something, and the moment at which it is no longer waited for."""

    program: str
    process: subprocess.Popen[str]
    deadline: float


class Answer(NamedTuple):
    """What a child said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def death(self) -> str:
        """Why it failed: the signal that it died by, else the last that it said."""
        if self.code < 0:
            return f"the process died by {signal.Signals(-self.code).name}"
        return next((line for line in reversed(self.err.splitlines()) if line.strip()), f"exit code {self.code}")


def _started(words: list[str]) -> Child:
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    return Child(words[0], process, time.monotonic() + PATIENCE_S)


def _answer(child: Child) -> Answer | None:
    """None of one that takes too long, which is ended."""
    try:
        out, err = child.process.communicate(timeout=max(child.deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.communicate()
        return None
    return Answer(child.process.returncode, out, err)


IMPORT: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from deploykit.backends.tensorrt.library import library, version
from deploykit.errors import BackendError
try:
    library(sys.argv[1])
    answer = {"version": version(sys.argv[1])}
except BackendError as error:
    answer = {"what": error.what, "remedy": error.remedy}
print()
print(json.dumps(answer))
"""


def _importing(name: str) -> Child:
    """In a child: a broken library may take its process down."""
    return _started([sys.executable, "-c", IMPORT, name, json.dumps([path for path in sys.path if path])])


def _tensorrt(name: str, importing: Child, here: Driver) -> Finding:
    entry = BACKENDS[name]
    if (answer := _answer(importing)) is None:
        return Finding(name, "ok", f"{_origin(entry.requires)}; importing it takes long, and was not waited for")
    if answer.code != 0:
        return Finding(name, "broken", f"importing {entry.requires} failed: {answer.death}", _again(entry.install))
    told: dict[str, Any] = json.loads(answer.out.splitlines()[-1])
    if "what" in told:
        return Finding(name, "broken", told["what"], told["remedy"])
    return _usable(name, told["version"], here)


def _usable(name: str, version: str, here: Driver) -> Finding:
    """What an imported library is good for on this machine."""
    if here.gpu is not None:
        of_gpu = _dotted(here.gpu.compute_capability)
        return Finding(name, "ok", f"{version}: builds engines, runs those for compute capability {of_gpu}")
    if name == "tensorrt":
        return Finding(name, "missing", f"{version}: builds nothing, runs nothing here: {here.absence}")
    return Finding(name, "ok", f"{version}: builds engines; cannot run them: {here.absence}")


def _again(install: str) -> str:
    return install.replace("pip install", "pip install --force-reinstall", 1)


def _extras() -> Iterator[Finding]:
    for name, (use, extra) in EXTRAS.items():
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", f"needed for {use}", f"pip install 'deploykit[{extra}]'")
        else:
            yield Finding(name, "ok", f"{version}, for {use}")


def _gpu(here: Driver) -> Finding:
    if here.gpu is not None:
        name, capability, version, memory = here.gpu
        said = f"{name}, compute capability {_dotted(capability)}, {memory / 2**30:.1f} GiB, driver {version}"
        return Finding("GPU", "ok", said)
    if (ROOT / "proc/driver/nvidia/version").is_file():
        hint = "; its kernel module is loaded, so this may be a container that was not given the GPU"
        remedy = "start the container with --gpus all"
    elif _on_the_bus():
        hint, remedy = "; a GPU of NVIDIA's is in this machine", "sudo ubuntu-drivers install, then restart"
    else:
        hint, remedy = "", None
    return Finding("GPU", "missing", f"{here.absence}{hint}: graphs are built and checked on the CPU", remedy)


def _on_the_bus() -> bool:
    """Whether a display or compute device of NVIDIA's is on the PCI bus, with a driver or without."""
    for device in (ROOT / "sys/bus/pci/devices").glob("*"):
        kind, vendor = ((device / name).read_text() for name in ("class", "vendor"))
        if vendor.strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _jetson() -> Iterator[Finding]:
    if (board := jetson.model(ROOT)) is not None:
        mode = jetson.power_mode(ROOT)
        told = "unknown: sudo nvpmodel -q tells it" if mode is None else mode
        yield Finding("Jetson", "ok", f"{board}, power mode {told}")


def _dotted(capability: int) -> str:
    """`9.0` for 90."""
    return f"{capability // 10}.{capability % 10}"


def _tools(started: dict[str, Child]) -> Iterator[Finding]:
    for name, tool in TOOLS.items():
        if name not in started:
            yield Finding(name, "missing", f"only needed for {tool.use}", tool.install)
            continue
        path, answer = started[name].program, _answer(started[name])
        if answer is not None and answer.code != 0:
            yield Finding(name, "broken", f"{path} --version failed: {answer.death}", _anew(tool.install))
        else:
            version = re.search(r"\d+\.\d+(\.\d+)*", answer.out) if answer is not None else None
            yield Finding(name, "ok", f"{version[0] if version else 'of unknown version'}, {path}")


def _anew(install: str) -> str:
    return install.replace("install", "install --reinstall", 1)


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("machine", "ok", f"{processor()}, {cores} cores, {platform.system()} {platform.machine()}")


def _disk() -> Finding:
    """Where bundles go unless another folder is named."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 2**30
    if free < DISK_GIB:
        return Finding(
            "disk", "broken", f"only {free:.1f} GiB free for bundles in {here}", "choose another folder with -o"
        )
    return Finding("disk", "ok", f"{free:.0f} GiB free for bundles in {here}")


def _cache() -> Finding:
    folder = cache.folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding("cache", "broken", f"{existing} is not a folder", f"set {cache.FOLDER_VARIABLE}")
    if not os.access(existing, os.W_OK):
        return Finding("cache", "broken", f"{folder} cannot be written", f"set {cache.FOLDER_VARIABLE}")
    try:
        found = cache.info()
    except UsageError as error:
        return Finding("cache", "broken", error.what, error.remedy)
    free, taken = found.free_bytes / 2**30, found.bytes / 2**30
    if free < DISK_GIB:
        return Finding("cache", "broken", f"{folder}: only {free:.1f} GiB free", "deploykit cache clear")
    cap = "no cap" if found.cap_bytes is None else f"of at most {found.cap_bytes / 2**30:.1f} GiB"
    return Finding("cache", "ok", f"{folder}, {found.entries} entries, {taken:.1f} GiB {cap}, {free:.0f} GiB free")


def _origin(name: str) -> str:
    return _version(name) or "of unknown origin"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
