"""Queries of the driver: this machine's, and drivers compiled for the tests. A double only verifies that NVIDIA's
library is called by its declared interface.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cuda_doubles import LIBCUDA, libcuda

from deploykit.backends.gpu import driver as subject

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a driver with")

ASKS = "import json; from deploykit.backends.gpu.driver import query_driver; print(json.dumps(query_driver()))"


def query_in_process(folder: Path, **environment: str) -> Any:
    """Output of a process that finds libcuda in `folder` first."""
    run = subprocess.run(
        [sys.executable, "-c", ASKS],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    libcuda(folder)
    return folder


def test_this_machine_reports_a_gpu_or_a_reason() -> None:
    gpu, absence = subject.query_driver()
    assert (gpu is None) == (absence is not None)
    if gpu is not None:
        assert gpu.compute_capability >= 50
        assert gpu.memory_bytes > 1 << 28


def test_detection_without_a_gpu_takes_less_than_50_ms() -> None:
    subject.query_driver.cache_clear()
    began = time.perf_counter()
    answer = subject.query_driver()
    assert answer.gpu is not None or time.perf_counter() - began < 0.05
    assert subject.query_driver() is answer


@needs_a_compiler
def test_the_first_gpu_is_described_without_creating_a_context(drivers: Path) -> None:
    (name, capability, version, memory), absence = query_in_process(drivers)
    assert (name, capability, memory, absence) == ("NVIDIA Fake", 87, 80 << 30, None)
    assert version == (subject._kernel_module_version() or "CUDA 13.1")


@needs_a_compiler
@pytest.mark.parametrize(
    ("environment", "absence"),
    [
        ({"FAKE_INIT": "100"}, "the NVIDIA driver finds no GPU (CUDA error 100)"),
        ({"FAKE_COUNT": "0"}, "the NVIDIA driver finds no GPU (CUDA error 100)"),
        (
            {"FAKE_INIT": "34"},
            "no NVIDIA driver is installed: libcuda.so.1 is the CUDA toolkit's stub of one (CUDA error 34)",
        ),
        ({"FAKE_INIT": "777"}, "the NVIDIA driver failed (CUDA error 777)"),
    ],
)
def test_a_driver_without_a_gpu_reports_the_reason(drivers: Path, environment: dict[str, str], absence: str) -> None:
    assert query_in_process(drivers, **environment) == [None, absence]


@needs_a_compiler
def test_a_library_without_a_function_is_distinguished_from_a_missing_one(tmp_path: Path) -> None:
    libcuda(tmp_path, LIBCUDA.replace("cuDeviceTotalMem_v2", "cuDeviceTotalMem"))
    gpu, absence = query_in_process(tmp_path)
    assert gpu is None
    assert "cuDeviceTotalMem_v2" in absence
    assert "is not found" not in absence


def test_a_library_that_does_not_load_is_distinguished_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    gpu, absence = query_in_process(tmp_path)
    assert gpu is None
    assert absence.startswith("the NVIDIA driver's library cannot be loaded (")


def test_a_missing_library_is_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    assert subject.query_driver.__wrapped__() == (
        None,
        "no NVIDIA driver is installed (libcuda-that-is-nowhere.so.1 is not found)",
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
            "GCC version:  gcc version 12.3.0",
            "550.54.15",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n",
            "540.4.0",
        ),
        ("NVRM version: something else\n", None),
    ],
)
def test_the_driver_version_is_read_from_the_kernel_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str | None
) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(subject, "KERNEL_MODULE", tmp_path / "version")
    assert subject._kernel_module_version() == version
