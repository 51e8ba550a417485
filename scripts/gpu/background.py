"""Steps that need no turn on the GPU, in parallel with the others: graphs, and torch.compile's compilation.

They go on when the program that started them has ended, so that the time between two stages is not lost; each ends
itself at its limit. While another step measures, they are stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gpu.journal import Row
from gpu.steps import COMPILE_AHEAD, Step, list_words, read_answer, read_last_line

POLL_S: Final = 0.2

LIMITED: Final = ("timeout", "--kill-after=2")
"""Coreutils' timeout starts the step, so that its limit holds when we have ended."""


def start_in_background(
    step: Step, seconds: float, work: Path, logs: Path, variables: Mapping[str, str], niceness: int
) -> None:
    """Begin the step unless it was begun in this folder before, and did not die."""
    if has_ended(step, work) or is_running(step, work):
        return
    for folder in (work, logs):
        folder.mkdir(parents=True, exist_ok=True)
    answer = work / f"{step.file_name}.json"
    answer.unlink(missing_ok=True)
    words = ["nice", "-n", str(niceness), *LIMITED, f"{seconds:.0f}", *list_words(step, answer, work, seconds)]
    with (logs / f"{step.file_name}.log").open("wb") as stream:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | dict(variables),
        )
    (work / f"{step.file_name}.pid").write_text(str(process.pid))


def has_ended(step: Step, work: Path) -> bool:
    """Whether the step did all that it could."""
    return bool(read_answer(work / f"{step.file_name}.json")["ended"])


def is_running(step: Step, work: Path) -> bool:
    return read_pid(step, work) is not None


def read_pid(step: Step, work: Path) -> int | None:
    """The process of the step in the background, which leads its own group; None where it has ended."""
    file = work / f"{step.file_name}.pid"
    if not file.is_file():
        return None
    pid = int(file.read_text())
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None
    if state == "Z":
        return None
    # Another process may have got the number since; while a process becomes another program, it has no words.
    return pid if not words or str(work / f"{step.file_name}.json").encode() in words else None


def read_background_rows(step: Step, work: Path, logs: Path) -> list[Row]:
    """What the step reported until now, and one row more where it has not ended well."""
    if not (work / f"{step.file_name}.pid").is_file():
        return [{"kind": "skipped", **step.stamp, "why": "not begun"}]
    report = read_answer(work / f"{step.file_name}.json")
    rows: list[Row] = report["rows"]
    if report["ended"]:
        return rows
    if is_running(step, work):
        return [*rows, {"kind": "note", **step.stamp, "text": "goes on in the background; a later stage reads it"}]
    log = logs / f"{step.file_name}.log"
    why = (read_last_line(log) if log.is_file() else None) or "ended without a word"
    if step.name.startswith(COMPILE_AHEAD):  # it only saves time
        return [*rows, {"kind": "note", **step.stamp, "text": f"not finished: {why}"}]
    return [*rows, {"kind": "failure", **step.stamp, "doing": report["doing"], "why": f"ended early: {why}"}]


def wait_for(steps: Sequence[Step], work: Path, seconds: float) -> None:
    """Return when none of the steps runs any more, or after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(is_running(step, work) for step in steps):
        time.sleep(POLL_S)


@contextmanager
def stopped(steps: Sequence[Step], work: Path) -> Iterator[None]:
    """Stop the steps' processes, compilers included, and let them go on afterwards."""
    pids = [pid for step in steps if (pid := read_pid(step, work)) is not None]
    send_signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal(pids, signal.SIGCONT)


def end_background(steps: Sequence[Step], work: Path) -> None:
    pids = [pid for step in steps if (pid := read_pid(step, work)) is not None]
    send_signal(pids, signal.SIGKILL)


def send_signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
