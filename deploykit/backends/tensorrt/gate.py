"""A trial of a plan in a child process, after its build record was compared (`backends.gpu.foreign_engines`).

TensorRT has no call that tells whether a plan is compatible: it deserializes or fails, and some failures end the
process. What the record cannot tell is therefore tried in a child process, where a crash only costs an error message.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from deploykit.backends.gpu.driver import query_driver
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.library import LibraryName, import_library
from deploykit.backends.tensorrt.library import library_version as version_of
from deploykit.backends.tensorrt.runtime import Runtime
from deploykit.core.errors import BackendError, DeploykitError
from deploykit.core.files import hash_file

TIMEOUT_S: Final = 120.0


def try_in_child(name: LibraryName, plan: Path, tried: Path | None = None, host_code: bool = False) -> None:
    """Deserialize the plan in a child process; BackendError where that fails or crashes.

    Without a driver no process is started, since the runtime would crash. A plan that passed is not tried again by this
    process, nor by others that use the same folder `tried`, which holds an empty file per combination of plan, library,
    GPU and driver. `host_code` allows the runtime embedded in a version-compatible plan.
    """
    gpu, missing_reason = query_driver()
    if gpu is None:
        raise BackendError(
            f"{plan.name} cannot be loaded: {missing_reason}.", "Run it on a machine with an NVIDIA GPU."
        )
    version = version_of(name)
    key = hashlib.sha256("\n".join((hash_file(plan), name, version, gpu.name, gpu.driver)).encode()).hexdigest()
    marker = tried / key if tried is not None else None
    if key in _PASSED or (marker is not None and marker.exists()):
        return
    if (reason := _find_child_failure(name, plan, host_code)) is not None:
        raise BackendError(f"{plan.name} cannot be loaded by {name} {version}: {reason}.", _rebuild_remedy(name))
    _PASSED.add(key)
    if marker is not None:
        with contextlib.suppress(OSError):  # without a writable cache the next process repeats the trial
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


_PASSED: Final[set[str]] = set()


def _rebuild_remedy(name: LibraryName) -> str:
    return f"Build it here: deploykit compile BUNDLE --target {name}. If that fails too: deploykit doctor."


PROGRAM: Final = """\
import sys
name, plan, host_code = sys.argv[1:4]
sys.path[:] = sys.argv[4:]
from pathlib import Path
from deploykit.backends.tensorrt.gate import deserialize_plan
deserialize_plan(name, Path(plan), host_code == "True")
"""
"""The child process's program. It imports from this process's sys.path, not from the current folder."""


def deserialize_plan(name: LibraryName, plan: Path, host_code: bool) -> None:
    """Runs in the child process. SystemExit with the reason where the library is unusable or rejects the plan."""
    try:
        runtime = Runtime(Dialect(import_library(name)))
        engine = runtime.deserialize(plan.read_bytes(), host_code)
        del engine  # before its runtime: a crash here would be taken for the plan's
    except DeploykitError as error:
        sys.exit(error.what)


def _find_child_failure(name: LibraryName, plan: Path, host_code: bool) -> str | None:
    """Run the child process; why it could not load the plan, as a clause, or None where it could."""
    command = [sys.executable, "-c", PROGRAM, name, str(plan.resolve()), str(host_code), *sys.path]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except OSError as error:
        return f"the child process for a trial could not be started: {error.strerror or error}"
    except subprocess.TimeoutExpired:
        return f"the child process that tried it did not finish within {TIMEOUT_S:.0f} s"
    if child.returncode == 0:
        return None
    lines = [line.strip() for line in (child.stdout + "\n" + child.stderr).splitlines() if line.strip()]
    last_line = lines[-1].rstrip(".") if lines else ""
    if child.returncode > 0:
        return last_line or "it does not deserialize"
    crash = f"the child process that tried it died of {_signal_name(-child.returncode)}"
    return f"{crash}, its last output: {last_line}" if last_line else crash


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
