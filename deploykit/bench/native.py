"""Measure the C++ library by its own program, so that the figure is the application's."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from deploykit.bench.statistics import percentile
from deploykit.errors import BackendError, CheckFailed, DeploykitError, InputError, InternalError, UsageError
from deploykit.values import Latency, Measured, StartUp, Value

ERRORS: Final = {error.exit_code: error for error in (CheckFailed, UsageError, InputError, InternalError)}
"""The C++ library numbers its errors as the command line numbers its exit codes."""


class NativeBench(Value, frozen=True):
    """What `deploykit-bench` prints."""

    runtime: str
    """`ONNX Runtime 1.31.1`."""
    file: str
    """The engine within the bundle."""
    passed_over: tuple[str, ...]
    latency: Latency
    start_up: StartUp
    peak_memory_bytes: int
    durations_ns: tuple[int, ...] = ()
    """From the file that it writes beside."""

    @property
    def measured(self) -> Measured:
        """The figures, and the durations that they were drawn from."""
        return Measured(self.latency, percentile(self.durations_ns, 99.9) / 1e6, self.durations_ns)


def measure_native(program: Path, bundle: Path, batch: int) -> NativeBench:
    """Latency of a bundle in a process of its own. Errors of the C++ library are raised as ours of the same kind."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "durations"
        words = (str(program), str(bundle), "--batch", str(batch), "--raw", str(raw))
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise _refusal(done.returncode, done.stderr)
        try:
            found = msgspec.json.decode(done.stdout, type=NativeBench)
            durations = tuple(map(int, raw.read_text().split()))
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            raise InternalError(f"{program.name} answered what is no measurement: {error}.", "Report it.") from error
    return msgspec.structs.replace(found, durations_ns=durations)


def _refusal(code: int, said: str) -> DeploykitError:
    reason = " ".join(said.split()).removeprefix("deploykit-bench: ")
    if code < 0:
        died = f"The C++ library died by {signal.Signals(-code).name} while it was measured. {reason}".strip()
        return BackendError(died, "Measure with --runtime python, and report it.")
    return ERRORS.get(code, BackendError)(reason or f"deploykit-bench ended with exit code {code}.", "")
