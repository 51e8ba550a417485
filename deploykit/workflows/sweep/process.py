"""One cell in its own process, so that a crash or memory exhaustion does not affect anything else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploykit.core.values import Value

ROOT: Final = str(Path(__file__).resolve().parents[3])
"""The folder that contains this package."""

PROGRAM: Final = (
    sys.executable, "-c", f"import sys; sys.path[0] = {ROOT!r}; from deploykit.cli import main; main()"
)  # fmt: skip
"""Starts this deploykit's command line, by its path: no folder next to sweep.toml can shadow the package."""

DIE_WITH_PARENT: Final = (
    "import ctypes, os, sys; sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])"
)
"""Sets PR_SET_PDEATHSIG (1), so that Linux kills the process when its parent ends in any way: a killed worker leaves no
running cell. The setting persists across execv.
"""

INTERRUPT_TIMEOUT_S: Final = 10.0
"""Time for an interrupted export to clean up."""


EXECUTION: Final = "DEPLOYKIT_EXECUTION"
"""Environment variable with the name of the attempt."""


class CellProcessResult(Value, frozen=True):
    """Result of a cell's process."""

    code: int
    """Exit code, or minus the signal that killed the process."""
    stderr: str
    seconds: float
    timed_out: bool = False

    @property
    def was_killed(self) -> bool:
        """Whether the process was killed from outside, such as by the kernel's OOM killer: it may succeed elsewhere."""
        return self.code == -signal.SIGKILL and not self.timed_out

    @property
    def error(self) -> str:
        """Error message of the command line, or a description of how the process ended."""
        if self.timed_out:
            return f"it took more than {self.seconds / 60:.0f} minutes and was stopped; raise --timeout."
        if self.was_killed:
            return "its process was killed from outside (SIGKILL), probably because the machine ran out of memory."
        if self.code < 0:
            return f"its process crashed ({signal.Signals(-self.code).name}). {self._last_line}".strip()
        if (text := self._reported_error) is not None:
            return " ".join(text.split())
        return f"it ended with exit code {self.code}. {self._last_line}".strip()

    @property
    def wrote_bundle(self) -> bool:
        """Whether there is a bundle. Exit code 1 without an error means a bundle that failed its checks."""
        return self.code == 0 or (self.code == 1 and self._reported_error is None)

    @property
    def _reported_error(self) -> str | None:
        """The error message at the end of the output. Notes may mention errors, but not at the start of a line."""
        matches = re.findall(r"^Error: (.*?)\Z", self.stderr, re.MULTILINE | re.DOTALL)
        return matches[-1].rpartition("\nError: ")[2] if matches else None

    @property
    def _last_line(self) -> str:
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return f"Last line of its output: {lines[-1]}" if lines else ""


def run_process(
    program: Sequence[str], arguments: Sequence[str], folder: Path, execution: str, timeout_s: float | None
) -> CellProcessResult:
    """Run a command line in `folder` to its end. An exception while waiting stops the process too."""
    began = time.monotonic()
    start = (sys.executable, "-ISc", DIE_WITH_PARENT, str(os.getpid()), *program, *arguments)
    with subprocess.Popen(
        start,
        cwd=folder,
        env=_build_environment(execution),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches only this process, which passes it on
    ) as process:
        timed_out = False
        try:
            _, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            stderr = _stop_process(process)
        except BaseException:
            _stop_process(process)
            raise
    return CellProcessResult(process.returncode, stderr, time.monotonic() - began, timed_out)


def _stop_process(process: subprocess.Popen[str]) -> str:
    """Interrupt the process; kill it and its children if it does not stop in time. Returns its standard error."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        return process.communicate(timeout=INTERRUPT_TIMEOUT_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[1]


def _build_environment(execution: str) -> dict[str, str]:
    """Build the environment of a cell's process: that of this process, but with GPUs visible. Ray hides all GPUs from
    tasks that do not request `GPU` by name, and a cell may request `sm87`.
    """
    environment = {name: value for name, value in os.environ.items() if (name, value) != ("CUDA_VISIBLE_DEVICES", "")}
    return {**environment, EXECUTION: execution}
