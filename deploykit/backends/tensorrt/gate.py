"""The gate before a plan is loaded: its record refuses it, or a child process tries it first.

TensorRT has no call that says whether a plan is fit: it deserializes or fails, and some ways of failing end the
process. So what the record tells is compared first, without a byte of the plan, and what it cannot tell is tried where
a crash costs a child process and a sentence.
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
from deploykit.backends.tensorrt.driver import Gpu, driver
from deploykit.backends.tensorrt.library import Name, library
from deploykit.backends.tensorrt.library import version as version_of
from deploykit.backends.tensorrt.running import Running
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.files import sha256
from deploykit.core.values import BuildRecord, Engine

TIMEOUT_S: Final = 120.0


def refuse_foreign(engine: Engine, version: str, gpu: Gpu, platform: str) -> None:
    """Nothing, where the engine was built for this `version`, `gpu` and `platform`; else BackendError with both sides.

    InputError where the manifest does not say what it was built for.
    """
    record, remedy = engine.build, f"Build it here: deploykit compile BUNDLE --target {engine.backend}."
    if record is None:
        raise InputError(f"The manifest does not say what {engine.file.path} was built for: it is damaged.", remedy)
    if record.platform != platform:
        raise _foreign(engine, record.platform, f"this machine is {platform}", remedy)
    if not _same_library(engine.version, version, record.options.version_compatible):
        made, here = f"{engine.backend} {engine.version}", f"here is {version}"
        kind = "version-compatible engines run within a major version and on the next, never on an earlier one"
        why = f" ({kind})" if record.options.version_compatible else ""
        raise _foreign(engine, made, here + why, remedy)
    if not _runs_on(record, gpu.compute_capability):
        here = f"the GPU here, {gpu.name}, is of {_dotted(gpu.compute_capability)}"
        raise _foreign(engine, _capabilities(record), here, remedy)


def _foreign(engine: Engine, made: str, here: str, remedy: str) -> BackendError:
    return BackendError(f"{engine.file.path} was built for {made}; {here}.", remedy)


def _same_library(built: str, running: str, version_compatible: bool) -> bool:
    """By the support matrix of 11.4: a version-compatible plan runs forward within its major, and from 8 on 10, from
    10 on 11. All others run on the very version that built them.
    """
    if not version_compatible or built == running:
        return built == running
    old, new = _numbers(built), _numbers(running)
    return (old[:1] == new[:1] and new >= old) or (old[:1], new[:1]) in {((8,), (10,)), ((10,), (11,))}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _runs_on(record: BuildRecord, capability: int) -> bool:
    named = record.compute_capabilities
    if capability in named or (record.open_ended and capability > max(named, default=capability)):
        return True
    return record.options.hardware_compatible and capability >= 80


def _capabilities(record: BuildRecord) -> str:
    """`compute capability 8.0, 8.6 or above`."""
    named = [_dotted(capability) for capability in sorted(record.compute_capabilities)]
    ends = [*named, "above"] if record.open_ended else [*named, "8.0 and above"] * record.options.hardware_compatible
    ends = ends or named or ["none that is recorded"]
    listed = ", ".join(ends[:-1])
    return f"compute capability {f'{listed} or ' if listed else ''}{ends[-1]}"


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def try_in_child(name: Name, plan: Path, tried: Path | None = None, host_code: bool = False) -> None:
    """Nothing, where a child process could deserialize the plan; BackendError where it could not, or died of it.

    Without a driver nothing is spawned: a runtime would die. A plan that passed is not tried again by this process, nor
    by others that give the same folder `tried`, where an empty file per passed plan, library, GPU and driver is kept.
    `host_code` lets the plan bring a runtime of its own, as version-compatible plans do.
    """
    found = driver()
    if found.gpu is None:
        raise BackendError(f"{plan.name} cannot be loaded: {found.absence}.", "Run it on a machine with an NVIDIA GPU.")
    told = (sha256(plan), name, version_of(name), found.gpu.name, found.gpu.driver)
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()
    mark = tried / key if tried is not None else None
    if key in _PASSED or (mark is not None and mark.exists()):
        return
    if (reason := _died_of(name, plan, host_code)) is not None:
        raise BackendError(f"{plan.name} cannot be loaded by {name} {told[2]}: {reason}.", _remedy(name))
    _PASSED.add(key)
    if mark is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs the next process a trial
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


_PASSED: Final[set[str]] = set()


def _remedy(name: Name) -> str:
    return f"Build it here: deploykit compile BUNDLE --target {name}. Where that fails too: deploykit doctor."


PROGRAM: Final = """\
import sys
name, plan, host_code = sys.argv[1:4]
sys.path[:] = sys.argv[4:]
from pathlib import Path
from deploykit.backends.tensorrt.gate import deserialize
deserialize(name, Path(plan), host_code == "True")
"""
"""The child: it sees the packages that this process sees, not those of the folder that it happens to start in."""


def deserialize(name: Name, plan: Path, host_code: bool) -> None:
    """What the child does. SystemExit with the reason where the library cannot be had or refuses the plan."""
    try:
        Running(Dialect(library(name))).deserialize(plan.read_bytes(), host_code)
    except DeploykitError as error:
        sys.exit(error.what)


def _died_of(name: Name, plan: Path, host_code: bool) -> str | None:
    """Why the child could not load the plan, as half a sentence; None: it could."""
    command = [sys.executable, "-c", PROGRAM, name, str(plan.resolve()), str(host_code), *sys.path]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except OSError as error:
        return f"no child process could be started to try it: {error.strerror or error}"
    except subprocess.TimeoutExpired:
        return f"a child process that tried it was not done after {TIMEOUT_S:.0f} s"
    if child.returncode == 0:
        return None
    lines = [line.strip() for line in (child.stdout + "\n" + child.stderr).splitlines() if line.strip()]
    said = lines[-1].rstrip(".") if lines else ""
    if child.returncode > 0:
        return said or "it does not deserialize"
    died = f"a child process that tried it died of {_signal(-child.returncode)}"
    return f"{died}, its last words: {said}" if said else died


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
