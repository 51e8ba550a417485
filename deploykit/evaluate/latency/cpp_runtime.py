"""Measure the C++ library with its own program, as an application would use it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from deploykit.core import cpp_programs
from deploykit.core.errors import InternalError
from deploykit.core.values import Latency, Measurement, StartupTimes, Value
from deploykit.evaluate.latency.measure import Settings
from deploykit.evaluate.latency.statistics import percentile


class CppEngine(Value, frozen=True):
    """The engine that the C++ library chose: the first output of `deploykit-bench --serve`."""

    runtime: str
    """`ONNX Runtime 1.31.1`."""
    file: str
    """The engine's path in the bundle."""
    skipped_engines: tuple[str, ...]
    start_up: StartupTimes


class CppBench(CppEngine, frozen=True, kw_only=True):
    """Output of `deploykit-bench`."""

    latency: Latency
    peak_memory_bytes: int
    durations_ns: tuple[int, ...] = ()
    """Read from the file that it writes for `--raw`."""

    @property
    def measured(self) -> Measurement:
        """The figures and the durations they are computed from."""
        return Measurement(self.latency, percentile(self.durations_ns, 99.9) / 1e6, self.durations_ns)


def measure_cpp(program: Path, bundle: Path, batch: int, settings: Settings) -> CppBench:
    """Measure a bundle in a separate process. Errors of the C++ library are raised as the same kind of Python error."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "durations"
        words = [bundle, "--batch", batch, "--raw", raw, "--iterations", settings.iterations_at_least]
        words += ["--seconds", settings.seconds_at_least, "--seconds-at-most", settings.seconds_at_most]
        printed = cpp_programs.run_program(program, *words)
        try:
            bench = msgspec.json.decode(printed, type=CppBench)
            durations = tuple(map(int, raw.read_text().split()))
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            raise _invalid_output(program.name, error) from error
    if not durations:
        raise _invalid_output(program.name, "it wrote no durations")
    return msgspec.structs.replace(bench, durations_ns=durations)


class BenchProcess:
    """A process of the C++ library that runs a call on request. `start_bench_process` starts and ends it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._stderr = stderr
        try:
            self.engine = msgspec.json.decode(self._read_line(), type=CppEngine)
        except msgspec.MsgspecError as error:
            raise _invalid_output(name, error) from error

    def request(self, request: str) -> int:
        """Send a request and return the answer: for `run` the nanoseconds of one call, for `memory` the peak bytes."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which _read_line reports
            self._process.stdin.write(f"{request}\n".encode())
        line = self._read_line()
        try:
            return int(line)
        except ValueError as error:
            raise _invalid_output(self._name, error) from error

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        code = self._process.wait()
        self._stderr.seek(0)
        raise cpp_programs.translate_failure(self._name, code, self._stderr.read().decode(errors="replace"))


@contextlib.contextmanager
def start_bench_process(program: Path, bundle: Path, batch: int) -> Iterator[BenchProcess]:
    """Open a bundle in a process of the C++ library. Its errors are raised as Python errors of the same kind."""
    words = (str(program), str(bundle), "--batch", str(batch), "--serve")
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as stderr,  # a third pipe would block the process when full
        subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=stderr, bufsize=0) as process,
    ):
        yield BenchProcess(program.name, process, stderr)


class ReportedClock:
    """A clock that advances by the durations that a BenchProcess reports, without the time of the requests."""

    def __init__(self) -> None:
        self._now = 0

    def __call__(self) -> int:
        return self._now

    def run(self, process: BenchProcess) -> None:
        """Run one call."""
        self._now += process.request("run")


def _invalid_output(name: str, reason: object) -> InternalError:
    return InternalError(f"{name} returned an invalid measurement: {reason}.", "Report it.")
