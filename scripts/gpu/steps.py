"""The steps of a check. Each runs in a process of its own, so that a crash or a hang is a row of the report and the
other steps go on.
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

MACHINE, ENVIRONMENT, GRAPHS = "machine", "environment", "graphs"

RUNNER_CHECKS: Final = ("runner-torch-first", "runner-torch-last", "runner-without-torch")
PROVIDER_CHECK: Final = "onnxruntime-cuda-provider"
TESTS: Final = "tests"

NOT_VARIANTS: Final = (MACHINE, ENVIRONMENT, GRAPHS, *RUNNER_CHECKS, PROVIDER_CHECK, TESTS)
"""Steps that are no way to run a network; every other step is a variant."""

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


def run_step(
    step: Step, seconds: float, work: Path, output: Path, variables: Mapping[str, str] | None = None
) -> list[Row]:
    """Run the step in a process; its rows, and one more where it did not end well. Its log goes into `output`."""
    file_name = str(step).replace(" ", "-")
    answer, folder, log = work / f"{file_name}.json", work / (step.network or "no-network"), output / f"{file_name}.log"
    answer.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(PROGRAM), "--step", step.name, "--answer", str(answer), "--work", str(folder)]
    command += ["--seconds", str(seconds)] + (["--network", step.network] if step.network else [])
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | dict(variables or {}),
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # and all that it started: compilers, for example
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return collect_rows(step, code, answer, log, seconds)


def collect_rows(step: Step, code: int | None, answer: Path, log: Path, seconds: float) -> list[Row]:
    """What the process reported, and how it ended if that was not well."""
    report = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {"rows": [], "doing": None}
    rows: list[Row] = report["rows"]
    if code == 0:
        return rows
    why, activity = describe_exit(code, log, seconds), report["doing"]
    if step.network is None and step.name not in NOT_VARIANTS:
        reason = f"{why} while {activity}" if activity else why
        return [*rows, {"kind": "variant", **step.stamp, "state": "fails", "why": reason, "details": {}}]
    return [*rows, {"kind": "failure", **step.stamp, "doing": activity, "why": why}]


def describe_exit(code: int | None, log: Path, seconds: float) -> str:
    """`died by SIGSEGV`."""
    if code is None:
        return f"not finished after {seconds:.0f} s, and killed"
    if code < 0:
        return f"died by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with exit code {code}"


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
    elif step.name == PROVIDER_CHECK:
        from gpu import onnxruntime_cuda

        onnxruntime_cuda.inspect_provider(journal, folder)
    else:
        from gpu import variants

        variants.measure_variant(journal, step.name, step.network, folder)
