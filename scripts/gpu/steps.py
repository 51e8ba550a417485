"""The steps of a check. Each runs in a process of its own, so that a crash or a hang is a row of the report and the
other steps go on.

A step that measures imports and builds what it needs while the step before it measures, and then waits for its turn:
only one step at a time uses the GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from gpu.journal import Journal, Row

PROGRAM: Final = Path(__file__).resolve().parent.parent / "gpu_check"

MACHINE, ENVIRONMENT, GRAPHS, INT8_GRAPHS = "machine", "environment", "graphs", "graphs-int8"

RUNNER_CHECKS: Final = ("runner-torch-first", "runner-torch-last", "runner-without-torch")
SESSION_CHECKS: Final = ("sessions-torch-first", "sessions-without-torch")
SESSIONS: Final = "onnxruntime-cuda-sessions"
PLANS: Final = ("tensorrt-plans", "tensorrt-rtx-plans")
TESTS: Final = "tests"
COMPILE_AHEAD: Final = "compile-ahead-"
"""Begins the name of steps that compile a network for the compilers' caches; a variant and a batch size follow."""

CHECKED_AS: Final = {
    **dict.fromkeys((SESSIONS, *SESSION_CHECKS), "onnxruntime-cuda"),
    "torch-reduce-overhead": "torch-compile",
    **{plans: plans.removesuffix("-plans") for plans in PLANS},
}
"""Steps on networks that are done where another variant works; the others need the variant of their own name."""

NOT_VARIANTS: Final = (
    *(MACHINE, ENVIRONMENT, GRAPHS, INT8_GRAPHS, *RUNNER_CHECKS, *SESSION_CHECKS, SESSIONS, *PLANS, TESTS),
)
"""Steps that are no way to run a network; every other step is a variant, or compiles for one."""

RESERVE_S: Final = 5.0
"""For the last report."""

AMPLE_S: Final = 60.0


class Step(NamedTuple):
    """One process: a variant checked on one convolution or measured on a network, or a step that variants need."""

    name: str
    network: str | None = None

    def __str__(self) -> str:
        return self.name if self.network is None else f"{self.name} {self.network}"

    @property
    def stamp(self) -> Row:
        return {"step": self.name, "network": self.network}

    @property
    def file_name(self) -> str:
        return str(self).replace(" ", "-")

    @property
    def is_variant(self) -> bool:
        return self.name not in NOT_VARIANTS and not self.name.startswith(COMPILE_AHEAD)

    @property
    def waits(self) -> bool:
        """Whether it prepares itself and then waits for its turn."""
        return self.network is not None and (self.is_variant or self.name in (SESSIONS, *PLANS))


class Budget:
    """The seconds of the whole check. No step gets more than half of what is left, or a minute if that is more."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start, self.seconds = clock, clock(), seconds

    @property
    def used(self) -> float:
        return self._clock() - self._start

    @property
    def left(self) -> float:
        return max(self.seconds - self.used - RESERVE_S, 0.0)

    def share(self) -> float:
        return min(self.left, max(self.left / 2, AMPLE_S))


# ── In the program that was started ─────────────────────────────────────────────────────────────────────────────────


class StartedStep(NamedTuple):
    """A step's process, and the files that it writes."""

    step: Step
    process: subprocess.Popen[bytes]
    answer: Path
    log: Path


def start_step(step: Step, work: Path, logs: Path, variables: Mapping[str, str] | None = None) -> StartedStep:
    """Begin the step. One that waits for its turn needs `finish_step` to get it."""
    for folder in (work, logs):
        folder.mkdir(parents=True, exist_ok=True)
    answer, log = work / f"{step.file_name}.json", logs / f"{step.file_name}.log"
    answer.unlink(missing_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list_words(step, answer, work, AMPLE_S),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | dict(variables or {}),
        )
    return StartedStep(step, process, answer, log)


def list_words(step: Step, answer: Path, work: Path, seconds: float) -> list[str]:
    """The command line of the step's process, which gets so many seconds until its turn says otherwise."""
    folder = work / (step.network or "no-network")
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, str(PROGRAM), "--step", step.name, "--answer", str(answer), "--folder", str(folder)]
    return [*words, "--seconds", str(seconds), *(["--network", step.network] if step.network else [])]


def finish_step(started: StartedStep, seconds: float) -> list[Row]:
    """Give the step its turn, and end it after so many seconds. Its rows, and one more where it did not end well."""
    process = started.process
    try:
        with contextlib.suppress(BrokenPipeError):  # it may have ended already
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n".encode())
            process.stdin.close()
        code: int | None = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        end_step(started)
    return collect_rows(started.step, code, started.answer, started.log, seconds)


def end_step(started: StartedStep) -> None:
    """End the process and all that it started: compilers, for example."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.process.pid, signal.SIGKILL)
    started.process.wait()


def run_step(
    step: Step, seconds: float, work: Path, logs: Path, variables: Mapping[str, str] | None = None
) -> list[Row]:
    """Run the step in a process; its rows, and one more where it did not end well."""
    return finish_step(start_step(step, work, logs, variables), seconds)


def collect_rows(step: Step, code: int | None, answer: Path, log: Path, seconds: float) -> list[Row]:
    """What the process reported, and how it ended if that was not well."""
    report = read_answer(answer)
    rows: list[Row] = report["rows"]
    if code == 0:
        return rows
    why, activity = describe_exit(code, log, seconds), report["doing"]
    if step.network is None and step.is_variant:
        reason = f"{why} while {activity}" if activity else why
        return [*rows, {"kind": "variant", **step.stamp, "state": "fails", "why": reason, "details": {}}]
    return [*rows, {"kind": "failure", **step.stamp, "doing": activity, "why": why}]


def read_answer(answer: Path) -> Row:
    report: Row = {"rows": [], "doing": None, "ended": False}
    return report | (json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {})


def describe_exit(code: int | None, log: Path, seconds: float) -> str:
    """`died by SIGSEGV`."""
    if code is None:
        return f"not finished after {seconds:.0f} s, and killed"
    if code < 0:
        return f"died by {signal.Signals(-code).name}"
    return read_last_line(log) or f"ended with exit code {code}"


def read_last_line(log: Path) -> str | None:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else None


# ── In the step's own process ───────────────────────────────────────────────────────────────────────────────────────


def perform_step(step: Step, answer: Path, folder: Path, seconds: float) -> None:
    """Do the step's work here. What it imports may be missing, and may end this process."""
    journal = Journal(answer, step.name, step.network, seconds)
    if step.name == MACHINE:
        from gpu import machine

        machine.record_machine(journal)
    elif step.name == ENVIRONMENT:
        from gpu import machine

        machine.record_environment(journal)
    elif step.name in RUNNER_CHECKS:
        from gpu import runner_checks

        runner_checks.check_runner(journal, step.name.removeprefix("runner-"))
    elif step.name == TESTS:
        from gpu import driver_tests

        driver_tests.run_tests(journal)
    elif step.network is None:
        from gpu import capability_check

        capability_check.check_variant(journal, step.name)
    elif step.name == GRAPHS:
        from gpu import graphs

        graphs.make_inputs(journal, step.network, folder)
    elif step.name == INT8_GRAPHS:
        from gpu import graphs

        graphs.make_int8_graph(journal, step.network, folder)
    elif step.name.startswith(COMPILE_AHEAD):
        from gpu import compile_ahead

        variant, batch = step.name.removeprefix(COMPILE_AHEAD).rsplit("-", 1)
        compile_ahead.compile_network(journal, step.network, variant, int(batch))
    elif step.name in SESSION_CHECKS:
        from gpu import cuda_runner_checks

        cuda_runner_checks.check_sessions(journal, step.name.removeprefix("sessions-"), folder)
    elif step.name == SESSIONS:
        from gpu import onnxruntime_cuda

        onnxruntime_cuda.inspect_provider(journal, folder)
    elif step.name in PLANS:
        from gpu import plan_check

        plan_check.check_plans(journal, step.name.removesuffix("-plans"), folder)
    else:
        from gpu import variants

        variants.measure_variant(journal, step.name, step.network, folder)
    journal.end()
