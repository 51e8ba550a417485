"""Checks before a plan is loaded: against its build record, then by a trial in a child process.

TensorRT has no call that tells whether a plan is compatible: it deserializes or fails, and some failures end the
process. So the build record is compared first, without reading the plan, and what it cannot tell is tried in a child
process, where a crash only costs an error message.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.driver import Gpu, query_driver
from deploykit.backends.tensorrt.library import LibraryName, import_library
from deploykit.backends.tensorrt.library import library_version as version_of
from deploykit.backends.tensorrt.runtime import Runtime
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.files import hash_file
from deploykit.core.values import BuildRecord, Engine

TIMEOUT_S: Final = 120.0


def reject_foreign_engine(engine: Engine, version: str, gpu: Gpu, platform: str) -> None:
    """Raise BackendError, naming both sides, unless the engine was built for this `version`, `gpu` and `platform`.

    InputError where the manifest does not record what the engine was built for.
    """
    record, remedy = engine.build, f"Build it here: deploykit compile BUNDLE --target {engine.backend}."
    if record is None:
        raise InputError(f"The manifest is damaged: it has no build record for {engine.file.path}.", remedy)
    if record.platform != platform:
        raise _foreign_error(engine, record.platform, f"this machine is {platform}", remedy)
    if not _can_run_version(engine.version, version, record.options.version_compatible):
        built, here = f"{engine.backend} {engine.version}", f"this machine has {version}"
        rule = "version-compatible engines run on the same major version and the next one, never on an earlier version"
        why = f" ({rule})" if record.options.version_compatible else ""
        raise _foreign_error(engine, built, here + why, remedy)
    if not _supports_gpu(record, gpu.compute_capability):
        here = f"this machine's {gpu.name} has {_format_capability(gpu.compute_capability)}"
        raise _foreign_error(engine, _format_capabilities(record), here, remedy)


def _foreign_error(engine: Engine, built: str, here: str, remedy: str) -> BackendError:
    return BackendError(f"{engine.file.path} was built for {built}; {here}.", remedy)


def _can_run_version(built: str, running: str, version_compatible: bool) -> bool:
    """The support matrix of 11.4: a version-compatible plan runs on later versions of its major version, from 8 also on
    10, from 10 also on 11. All others run only on the version that built them.
    """
    if not version_compatible or built == running:
        return built == running
    old, new = _version_numbers(built), _version_numbers(running)
    return (old[:1] == new[:1] and new >= old) or (old[:1], new[:1]) in {((8,), (10,)), ((10,), (11,))}


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _supports_gpu(record: BuildRecord, capability: int) -> bool:
    targets = record.compute_capabilities
    if capability in targets or (record.open_ended and capability > max(targets, default=capability)):
        return True
    return record.options.hardware_compatible and capability >= 80


def _format_capabilities(record: BuildRecord) -> str:
    """`compute capability 8.0, 8.6 or above`."""
    targets = [_format_capability(capability) for capability in sorted(record.compute_capabilities)]
    if record.open_ended:
        targets.append("above")
    elif record.options.hardware_compatible:
        targets.append("8.0 and above")
    *first, last = targets or ["none that is recorded"]
    return f"compute capability {', '.join(first)} or {last}" if first else f"compute capability {last}"


def _format_capability(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


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
