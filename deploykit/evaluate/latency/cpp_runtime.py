"""Measure the C++ library by its own program, so that the figure is the application's."""

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
from deploykit.core.values import Latency, Measured, StartUp, Value
from deploykit.evaluate.latency.measure import Settings
from deploykit.evaluate.latency.statistics import percentile


class NativeEngine(Value, frozen=True):
    """The engine that the C++ library chose, as `deploykit-bench --serve` says it first."""

    runtime: str
    """`ONNX Runtime 1.31.1`."""
    file: str
    """The engine within the bundle."""
    passed_over: tuple[str, ...]
    start_up: StartUp


class NativeBench(NativeEngine, frozen=True, kw_only=True):
    """What `deploykit-bench` prints."""

    latency: Latency
    peak_memory_bytes: int
    durations_ns: tuple[int, ...] = ()
    """From the file that it writes beside."""

    @property
    def measured(self) -> Measured:
        """The figures, and the durations that they were drawn from."""
        return Measured(self.latency, percentile(self.durations_ns, 99.9) / 1e6, self.durations_ns)


def measure_native(program: Path, bundle: Path, batch: int, settings: Settings) -> NativeBench:
    """Latency of a bundle in a process of its own. Errors of the C++ library are raised as ours of the same kind."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "durations"
        words = [bundle, "--batch", batch, "--raw", raw, "--iterations", settings.iterations_at_least]
        words += ["--seconds", settings.seconds_at_least, "--seconds-at-most", settings.seconds_at_most]
        said = cpp_programs.run(program, *words)
        try:
            found = msgspec.json.decode(said, type=NativeBench)
            durations = tuple(map(int, raw.read_text().split()))
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            raise _nonsense(program.name, error) from error
    if not durations:
        raise _nonsense(program.name, "it wrote no durations")
    return msgspec.structs.replace(found, durations_ns=durations)


class Served:
    """A process of the C++ library that makes a call whenever it is asked to. `served` starts it and ends it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._said = said
        try:
            self.engine = msgspec.json.decode(self._line(), type=NativeEngine)
        except msgspec.MsgspecError as error:
            raise _nonsense(name, error) from error

    def ask(self, request: str) -> int:
        """`run`: the nanoseconds of one call; `memory`: the peak in bytes."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: that it answers nothing says so
            self._process.stdin.write(f"{request}\n".encode())
        line = self._line()
        try:
            return int(line)
        except ValueError as error:
            raise _nonsense(self._name, error) from error

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        code = self._process.wait()
        self._said.seek(0)
        raise cpp_programs.refusal(self._name, code, self._said.read().decode(errors="replace"))


@contextlib.contextmanager
def served(program: Path, bundle: Path, batch: int) -> Iterator[Served]:
    """A bundle opened by a process of the C++ library, which has answered once. Its errors are raised as ours of the
    same kind.
    """
    words = (str(program), str(bundle), "--batch", str(batch), "--serve")
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as said,  # a third pipe would hold the process up when it is full
        subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=said, bufsize=0) as process,
    ):
        yield Served(program.name, process, said)


class ToldTime:
    """A clock that only the answers of a Served move: what asking it takes is nobody's latency."""

    def __init__(self) -> None:
        self._now = 0

    def __call__(self) -> int:
        return self._now

    def run(self, served: Served) -> None:
        """One call."""
        self._now += served.ask("run")


def _nonsense(name: str, reason: object) -> InternalError:
    return InternalError(f"{name} answered what is no measurement: {reason}.", "Report it.")
