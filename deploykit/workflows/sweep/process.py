"""One cell in a process of its own: it may crash, or take all memory, and nothing else ends with it."""

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

ROOT: Final = str(Path(__file__).resolve().parents[2])
"""The folder that holds this package."""

PROGRAM: Final = (
    sys.executable, "-c", f"import sys; sys.path[0] = {ROOT!r}; from deploykit.cli import main; main()"
)  # fmt: skip
"""Starts deploykit's command line, this one: no folder beside sweep.toml is taken for a package of ours."""

DIES_WITH_US: Final = (
    "import ctypes, os, sys; sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])"
)
"""Linux kills a process that said PR_SET_PDEATHSIG, 1, when its parent ends, however that ends: where a worker is
killed, its cell does not go on unseen. The wish outlives execv.
"""

GRACE_S: Final = 10.0
"""For an interrupted export to tidy up."""


EXECUTION: Final = "DEPLOYKIT_EXECUTION"
"""Tells the process which attempt it is."""


class Ended(Value, frozen=True):
    """How the process of a cell ended."""

    code: int
    """Exit code of the command line, or minus the signal that killed the process."""
    said: str
    """On standard error."""
    seconds: float
    timed_out: bool = False

    @property
    def killed(self) -> bool:
        """Whether somebody else ended it, the kernel for want of memory for one: it may succeed elsewhere."""
        return self.code == -signal.SIGKILL and not self.timed_out

    @property
    def error(self) -> str:
        """What went wrong, as sentences: what the command line said, or what ended the process."""
        if self.timed_out:
            return f"it took more than {self.seconds / 60:.0f} minutes and was stopped; --timeout gives it longer."
        if self.killed:
            return "its process was killed from outside (SIGKILL); a machine that runs out of memory does that."
        if self.code < 0:
            return f"its process crashed ({signal.Signals(-self.code).name}). {self._last}".strip()
        if (text := self._explained) is not None:
            return " ".join(text.split())
        return f"it ended with exit code {self.code}. {self._last}".strip()

    @property
    def wrote(self) -> bool:
        """Whether there is a bundle. Exit code 1 is that of one that is marked failed, too."""
        return self.code == 0 or (self.code == 1 and self._explained is None)

    @property
    def _explained(self) -> str | None:
        """The error that the command line ended with; a note may speak of errors as well, but no line of it so."""
        found = re.findall(r"^Error: (.*?)\Z", self.said, re.MULTILINE | re.DOTALL)
        return found[-1].rpartition("\nError: ")[2] if found else None

    @property
    def _last(self) -> str:
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return f"Its last words: {lines[-1]}" if lines else ""


def execute(
    program: Sequence[str], words: Sequence[str], folder: Path, execution: str, timeout_s: float | None
) -> Ended:
    """Run a command line in `folder` to its end. What interrupts the wait ends the process too."""
    began = time.monotonic()
    start = (sys.executable, "-ISc", DIES_WITH_US, str(os.getpid()), *program, *words)
    with subprocess.Popen(
        start,
        cwd=folder,
        env=_environment(execution),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches us, and we pass it on
    ) as process:
        timed_out = False
        try:
            _, said = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            said = _stopped(process)
        except BaseException:
            _stopped(process)
            raise
    return Ended(process.returncode, said, time.monotonic() - began, timed_out)


def _stopped(process: subprocess.Popen[str]) -> str:
    """Interrupted, and killed with its children where that does not help."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        return process.communicate(timeout=GRACE_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[1]


def _environment(execution: str) -> dict[str, str]:
    """Ours; but Ray may hide every GPU from work that asked for none by the name `GPU`, and ours may ask for `sm87`."""
    ours = {name: value for name, value in os.environ.items() if (name, value) != ("CUDA_VISIBLE_DEVICES", "")}
    return {**ours, EXECUTION: execution}
