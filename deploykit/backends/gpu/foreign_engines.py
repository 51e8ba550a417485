"""Engines of another machine: refused by their build record, before any of their file is read."""

from __future__ import annotations

import re

from deploykit.backends.gpu.driver import Gpu
from deploykit.core.errors import BackendError, InputError
from deploykit.core.values import BuildRecord, Engine


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
