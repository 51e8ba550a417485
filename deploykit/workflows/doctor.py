"""The capability report of this machine. It imports nothing heavy."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from deploykit.backends import BACKENDS, is_installed
from deploykit.backends.gpu.driver import Driver, query_driver
from deploykit.backends.gpu.memory_library import INSTALLED_FIRST
from deploykit.backends.onnxruntime_package import find_package
from deploykit.core import cache
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.extras import install_command, pip_command, reinstall_command
from deploykit.core.provenance import processor_name
from deploykit.core.values import Finding
from deploykit.evaluate.latency import jetson

ROOT: Final = Path("/")
"""The folder under which the files of Linux are read."""

CORE: Final = ("numpy", "pillow", "msgspec")

EXTRAS: Final = {
    **dict.fromkeys(
        ("torch", "torchvision", "onnxscript", "safetensors"), ("deploykit export, deploykit parity", "export")
    ),
    **dict.fromkeys(("onnx", "onnx-ir"), ("engines built from graphs, deploykit inspect", "compile")),
    **dict.fromkeys(("jinja2", "matplotlib"), ("reports", "compile")),
    "scikit-learn": ("the set `digits`", "datasets"),
    "scikit-image": ("the set `photos`", "datasets"),
    "cuda-bindings": ("running TensorRT engines, CUDA graphs", "gpu"),
    "pycuda": ("running TensorRT engines; cuda-bindings does so without a compiler", "gpu"),
    "nvidia-ml-py": ("clocks, temperature and power in GPU benchmarks", "gpu"),
    "mlcommons-loadgen": ("bench --loadgen, MLPerf's scenarios", "loadgen"),
}
"""Optional packages: the use of each, and the extra that installs it."""

TENSORRT: Final = ("tensorrt", "tensorrt-rtx")


class Tool(NamedTuple):
    """A program, its use, and the package of Debian and Ubuntu that installs it."""

    program: str
    use: str
    package: str


TOOLS: Final = {
    "CUDA toolkit": Tool("nvcc", "C++ applications with TensorRT", "nvidia-cuda-toolkit"),
    "cmake": Tool("cmake", "C++ applications", "cmake"),
    "g++": Tool("g++", "C++ applications, where clang is not installed", "g++"),
    "clang": Tool("clang++", "C++ applications, where g++ is not installed", "clang"),
}

TIMEOUT_S: Final = 2.5
"""Time limit of all child processes together: importing tensorrt_rtx 1.7.1 from a warm disk takes 0.1 s."""

DISK_GIB: Final = 5.0
"""Free space that exports of large networks and their cache entries may need."""


def examine_machine() -> tuple[Finding, ...]:
    """All findings, the most important first."""
    # Child processes run while the rest is examined.
    imports = {name: _start_python(IMPORT, name) for name in TENSORRT if is_installed(name)}
    memory = _start_python(IMPORT_MEMORY)
    paths = {name: shutil.which(tool.program) for name, tool in TOOLS.items()}
    tools = {name: _start_child([path, "--version"]) for name, path in paths.items() if path is not None}
    driver = query_driver()
    return (
        _check_python(),
        *_check_core(),
        *_check_backends(imports, driver),
        *_check_extras(),
        _check_gpu_memory(memory),
        _check_gpu(driver),
        *_check_jetson(),
        *_check_tools(tools),
        _check_machine(),
        _check_disk(),
        _check_cache(),
    )


def _check_python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _check_core() -> Iterator[Finding]:
    for name in CORE:
        version = _installed_version(name)
        if version is None:
            yield Finding(name, "broken", "not installed", install_command())
        else:
            yield Finding(name, "ok", version)


def _check_backends(imports: dict[str, Child], driver: Driver) -> Iterator[Finding]:
    for name, entry in BACKENDS.items():
        if not is_installed(name):
            yield Finding(name, "missing", f"{entry.requires} is not installed", _install_extra_command(entry.extra))
        elif name == "onnxruntime":
            yield _check_onnxruntime(driver)
        elif name == "onnxruntime-cuda":
            yield _check_cuda_provider(driver)
        elif name in imports:
            yield _check_tensorrt(name, imports[name], driver)
        else:
            yield Finding(name, "ok", _version_or_unknown(entry.requires))


def _check_onnxruntime(driver: Driver) -> Finding:
    packages = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed_version(name) is not None]
    if len(packages) == 2:
        extra = "cpu" if driver.gpu is None else "gpu"
        remedy = f"{pip_command('uninstall', *packages)} && {install_command(extra)}"
        return Finding("onnxruntime", "broken", f"two packages own the import name: {' and '.join(packages)}", remedy)
    versions = " ".join(f"{_installed_version(name)} ({name})" for name in packages)
    return Finding("onnxruntime", "ok", versions or "of unknown version")


def _check_cuda_provider(driver: Driver) -> Finding:
    name = "onnxruntime-cuda"
    try:
        package = find_package()
    except BackendError as error:
        return Finding(name, "broken", error.what, _install_extra_command("cpu"))
    if driver.gpu is None:
        return Finding(name, "missing", f"cannot run here: {driver.missing_reason}")
    if not package.has_cuda_provider:
        return Finding(name, "missing", f"{package.name} has no CUDA provider", _install_extra_command("cuda"))
    return Finding(name, "ok", f"{package.version}: runs FP32, FP16 and BF16 graphs on the GPU")


def _install_extra_command(extra: str) -> str:
    """The command that installs an extra. `gpu` and `cuda` replace the CPU build of ONNX Runtime, which owns the same
    import name as the GPU build.
    """
    install = install_command(extra)
    if extra in ("gpu", "cuda") and _installed_version("onnxruntime") is not None:
        return f"{pip_command('uninstall', 'onnxruntime')} && {install}"
    return install


class Child(NamedTuple):
    """A child process and the time until which it is waited for."""

    program: str
    process: subprocess.Popen[str]
    deadline: float


class ChildResult(NamedTuple):
    """The exit code and the output of a child process."""

    code: int
    out: str
    err: str

    @property
    def failure_reason(self) -> str:
        """The signal that killed it, or else the last line of its error output."""
        if self.code < 0:
            return f"the process died by {signal.Signals(-self.code).name}"
        return next((line for line in reversed(self.err.splitlines()) if line.strip()), f"exit code {self.code}")


def _start_child(words: list[str]) -> Child:
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    return Child(words[0], process, time.monotonic() + TIMEOUT_S)


def _wait_for_child(child: Child) -> ChildResult | None:
    """The result; None where the process exceeded its time limit and was killed."""
    try:
        out, err = child.process.communicate(timeout=max(child.deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.communicate()
        return None
    return ChildResult(child.process.returncode, out, err)


IMPORT: Final = """
from deploykit.backends.tensorrt.library import import_library, library_version
from deploykit.core.errors import BackendError
try:
    import_library(sys.argv[2])
    answer = {"version": library_version(sys.argv[2])}
except BackendError as error:
    answer = {"what": error.what, "remedy": error.remedy}
"""

IMPORT_MEMORY: Final = """
from deploykit.backends.gpu.memory import import_memory_library
library, refusals = import_memory_library()
answer = {"name": library and library.name, "refusals": refusals}
"""


def _start_python(program: str, *words: str) -> Child:
    """Run a program that sets `answer`, in a child process, since a broken library may crash its process."""
    paths = json.dumps([path for path in sys.path if path])
    start, end = "import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n", "\nprint()\nprint(json.dumps(answer))"
    return _start_child([sys.executable, "-c", start + program + end, paths, *words])


def _check_tensorrt(name: str, importing: Child, driver: Driver) -> Finding:
    module = BACKENDS[name].requires
    if (result := _wait_for_child(importing)) is None:
        detail = f"{_version_or_unknown(name)}; not imported: that takes more than {TIMEOUT_S} s"
        return Finding(name, "ok", detail)
    if result.code != 0:
        detail = f"importing {module} failed: {result.failure_reason}"
        return Finding(name, "broken", detail, reinstall_command(name))
    answer: dict[str, Any] = json.loads(result.out.splitlines()[-1])
    if "what" in answer:
        return Finding(name, "broken", answer["what"], answer["remedy"])
    return _describe_tensorrt(name, answer["version"], driver)


def _describe_tensorrt(name: str, version: str, driver: Driver) -> Finding:
    """What an importable library can do on this machine."""
    if driver.gpu is not None:
        capability = _format_capability(driver.gpu.compute_capability)
        return Finding(name, "ok", f"{version}: builds engines, runs those for compute capability {capability}")
    if name == "tensorrt":
        return Finding(name, "missing", f"{version}: cannot build or run engines here: {driver.missing_reason}")
    return Finding(name, "ok", f"{version}: builds engines; cannot run them: {driver.missing_reason}")


def _check_extras() -> Iterator[Finding]:
    for name, (use, extra) in EXTRAS.items():
        version = _installed_version(name)
        if version is None:
            yield Finding(name, "missing", f"needed for {use}", _install_extra_command(extra))
        else:
            yield Finding(name, "ok", f"{version}, for {use}")


def _check_gpu_memory(importing: Child) -> Finding:
    """Which of pycuda and cuda-bindings the engines of TensorRT use."""
    if (result := _wait_for_child(importing)) is None:
        return Finding("GPU memory", "ok", f"unknown: importing pycuda and cuda-bindings takes more than {TIMEOUT_S} s")
    if result.code != 0:
        detail = f"importing pycuda or cuda-bindings failed: {result.failure_reason}"
        return Finding("GPU memory", "broken", detail, reinstall_command(INSTALLED_FIRST))
    answer: dict[str, Any] = json.loads(result.out.splitlines()[-1])
    refused = [
        f"{name} cannot be imported: {reason}"
        for name, reason in answer["refusals"].items()
        if _installed_version(name) is not None
    ]
    if answer["name"] is not None:
        return Finding("GPU memory", "ok", "; ".join([f"{answer['name']}, for TensorRT engines", *refused]))
    detail = "; ".join(refused or ["neither cuda-bindings nor pycuda is installed, which run TensorRT engines"])
    return Finding("GPU memory", "missing", detail, pip_command("install", INSTALLED_FIRST))


def _check_gpu(driver: Driver) -> Finding:
    if driver.gpu is not None:
        name, compute_capability, version, memory_bytes = driver.gpu
        capability, memory_gib = _format_capability(compute_capability), memory_bytes / 2**30
        detail = f"{name}, compute capability {capability}, {memory_gib:.1f} GiB, driver {version}"
        return Finding("GPU", "ok", detail)
    if (ROOT / "proc/driver/nvidia/version").is_file():
        hint = "; its kernel module is loaded, so this may be a container without access to the GPU"
        remedy = "start the container with --gpus all"
    elif _has_pci_gpu():
        hint = "; this machine has an NVIDIA GPU"
        remedy = f"{_as_root('ubuntu-drivers install')} && {_as_root('reboot')}"
    else:
        hint, remedy = "", None
    return Finding("GPU", "missing", f"{driver.missing_reason}{hint}: graphs are built and checked on the CPU", remedy)


def _has_pci_gpu() -> bool:
    """Whether the PCI bus has an NVIDIA display or compute device, with or without a driver."""
    for device in (ROOT / "sys/bus/pci/devices").glob("*"):
        device_class, vendor = ((device / name).read_text() for name in ("class", "vendor"))
        if vendor.strip() == "0x10de" and device_class.startswith("0x03"):
            return True
    return False


def _check_jetson() -> Iterator[Finding]:
    if (board := jetson.read_board_name(ROOT)) is not None:
        mode = jetson.read_power_mode(ROOT) or "unknown (sudo nvpmodel -q prints it)"
        yield Finding("Jetson", "ok", f"{board}, power mode {mode}")


def _format_capability(capability: int) -> str:
    """`9.0` for 90."""
    return f"{capability // 10}.{capability % 10}"


def _check_tools(started: dict[str, Child]) -> Iterator[Finding]:
    for name, tool in TOOLS.items():
        if name not in started:
            yield Finding(name, "missing", f"only needed for {tool.use}", _install_tool_command(tool.package))
            continue
        path, result = started[name].program, _wait_for_child(started[name])
        if result is not None and result.code != 0:
            detail = f"{path} --version failed: {result.failure_reason}"
            yield Finding(name, "broken", detail, _install_tool_command(tool.package, "--reinstall"))
        else:
            version = re.search(r"\d+\.\d+(\.\d+)*", result.out) if result is not None else None
            yield Finding(name, "ok", f"{version[0] if version else 'of unknown version'}, {path}")


def _install_tool_command(package: str, *options: str) -> str:
    """The command of Debian and Ubuntu that installs a package; advice where this system has no apt."""
    if shutil.which("apt") is None:
        return f"install {package} (its name on Debian and Ubuntu) with this system's package manager"
    return _as_root(" ".join(("apt install", *options, package)))


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _check_machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("machine", "ok", f"{processor_name()}, {cores} cores, {platform.system()} {platform.machine()}")


def _check_disk() -> Finding:
    """The disk of the current folder, where bundles are written by default."""
    folder = Path.cwd()
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < DISK_GIB:
        detail = f"only {free_gib:.1f} GiB free for bundles in {folder}"
        return Finding("disk", "broken", detail, "choose another folder with -o")
    return Finding("disk", "ok", f"{free_gib:.0f} GiB free for bundles in {folder}")


def _check_cache() -> Finding:
    folder = cache.cache_folder()
    remedy = f"export {cache.FOLDER_VARIABLE}=FOLDER, with a folder that you may write"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding("cache", "broken", f"{existing} is not a folder", remedy)
    if not os.access(existing, os.W_OK):
        return Finding("cache", "broken", f"{folder} cannot be written", remedy)
    try:
        info = cache.describe_cache()
    except UsageError as error:
        return Finding("cache", "broken", error.what, error.remedy)
    free_gib, used_gib = info.free_bytes / 2**30, info.bytes / 2**30
    if free_gib < DISK_GIB:
        detail = f"{folder}: only {free_gib:.1f} GiB free"
        return Finding("cache", "broken", detail, f"{_deploykit_program()} cache clear")
    cap = "no cap" if info.cap_bytes is None else f"of at most {info.cap_bytes / 2**30:.1f} GiB"
    return Finding(
        "cache", "ok", f"{folder}, {info.entries} entries, {used_gib:.1f} GiB {cap}, {free_gib:.0f} GiB free"
    )


def _deploykit_program() -> str:
    """The command line program of this environment."""
    program = Path(sys.executable).with_name("deploykit")
    return shlex.quote(str(program)) if program.is_file() else "deploykit"


def _version_or_unknown(name: str) -> str:
    return _installed_version(name) or "of unknown version"


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
