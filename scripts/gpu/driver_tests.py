"""The tests of deploykit's use of the driver, run where there is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from gpu.journal import Journal
from gpu.machine import find_gpu

ROOT: Final = Path(__file__).resolve().parent.parent.parent

TESTS: Final = ("tests/backends/gpu", "tests/backends/tensorrt/test_capture.py", "tests/backends/onnxruntime_cuda")


def run_tests(journal: Journal) -> None:
    """A row with pytest's last line. Without a GPU, the tests that need one are skipped, and the row says so."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    with journal.activity("running pytest"):
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout, result.stderr)
    lines = [line for line in result.stdout.splitlines() if re.search(r"\d+ (passed|failed|error|skipped)", line)]
    summary = lines[-1].strip("= ") if lines else (result.stderr.strip().splitlines() or ["no output"])[-1]
    _, absence = find_gpu()
    why = summary if absence is None else f"{summary}; {absence}"
    journal.add_row("check", check="pytest", state="passed" if result.returncode == 0 else "failed", why=why)
