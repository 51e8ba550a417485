"""How fast a finished bundle is on this machine.

Each verb reads the manifest first and checks every file's digest before any of them is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from deploykit.backends.adapters import Fitted
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.open import opened
from deploykit.bundle.verify import check_files, golden
from deploykit.core import cpp_programs
from deploykit.core.errors import UsageError
from deploykit.core.values import (
    BatchRange,
    Bench,
    Comparison,
    Conditions,
    Engine,
    LoadGenSummary,
    Measured,
    Progress,
    Runner,
    Runtime,
    Scenario,
    StartUp,
    TimedRunner,
)
from deploykit.evaluate.latency import loadgen
from deploykit.evaluate.latency.clock import MONOTONIC
from deploykit.evaluate.latency.compare import Compared
from deploykit.evaluate.latency.compare import compare as compare_calls
from deploykit.evaluate.latency.conditions import watch
from deploykit.evaluate.latency.cpp_runtime import Served, ToldTime, measure_native, served
from deploykit.evaluate.latency.load import Load, Loaded, under_load
from deploykit.evaluate.latency.measure import PARTS, Settings, measure
from deploykit.evaluate.latency.memory import peak_memory_bytes
from deploykit.evaluate.latency.sweep import knee

if TYPE_CHECKING:
    from numpy.typing import NDArray

GPU_CALLS: Final = 50
"""Whose medians say where a call's time goes on a GPU."""

ONE_PROCESS: Final = (
    "both bundles were in one process: the peak memory is that of both together, and the second's loading found "
    "imported what the first had to import"
)


def bench(
    folder: Path,
    runtime: Runtime,
    sizes: Sequence[int],
    load: Load,
    settings: Settings,
    scenario: Scenario | None,
    progress: Progress,
) -> Bench:
    """Latency of a bundle on this machine at each batch size, on its golden inputs; where no size is asked for, at the
    smallest that it takes. Then LoadGen's own account of `scenario`, with batches up to the largest size.

    With `cpp` the C++ library is built first, and then opens, checks and measures the bundle by itself, without a load
    or a scenario. UsageError for a size that the bundle does not take.
    """
    manifest = manifests.read(folder)
    wanted = tuple(sizes) or (manifest.batch.minimum,)
    for size in wanted:
        _check_size(folder, manifest, size)
    match runtime:
        case "python":
            started = _started(folder, manifest, wanted[0])
            found = _bench_python(started, wanted, load, settings, progress)
            if scenario is None:
                return found
            largest = max(sizes, default=manifest.batch.maximum)
            summary = _loadgen(started, largest, load.rate_per_s, settings, scenario, progress)
            return msgspec.structs.replace(found, loadgen=summary)
        case "cpp":
            return _bench_cpp(folder, manifest, wanted, settings, progress)


def compare(
    folders: tuple[Path, Path],
    runtime: Runtime,
    size: int | None,
    rounds: int | None,
    settings: Settings,
    limit: float | None,
    progress: Progress,
) -> Comparison:
    """Two bundles at one batch size in turn, a block of calls each: `rounds` times, or as `settings` says.

    Where no size is asked for it is the smallest that both take. The second may take `limit` times as long as the
    first. UsageError where one of them does not take the size.
    """
    first, second = (manifests.read(folder) for folder in folders)
    wanted = size or max(first.batch.minimum, second.batch.minimum)
    for folder, manifest in zip(folders, (first, second), strict=True):
        _check_size(folder, manifest, wanted)
    match runtime:
        case "python":
            pair = _compare_python(folders, (first, second), wanted, rounds, settings, progress)
        case "cpp":
            pair = _compare_cpp(folders, (first, second), wanted, rounds, settings, progress)
    return Comparison(*pair.benches, pair.compared.ratio, pair.compared.rounds, limit)


def _check_size(folder: Path, manifest: Manifest, size: int) -> None:
    sizes = manifest.batch
    if not sizes.minimum <= size <= sizes.maximum:
        raise UsageError(
            f"{folder} takes batches of {sizes.minimum} to {sizes.maximum}, not of {size}.",
            "Choose one of these, or export it with another --batch.",
        )


class _Started(NamedTuple):
    """A bundle that has answered once, and how long that took."""

    manifest: Manifest
    engine: Engine
    runner: Runner
    rows: dict[str, NDArray[Any]]
    start_up: StartUp

    def inputs(self, size: int) -> dict[str, NDArray[Any]]:
        """The golden rows, again and again until there are `size`."""
        return _inputs(self.runner, self.rows, size)

    def bench(
        self, measured: tuple[Measured, ...], conditions: tuple[Conditions, ...], statements: Sequence[str]
    ) -> Bench:
        """All that there is to say of it."""
        return Bench(
            self.manifest.model.name,
            self.manifest.precision,
            "python",
            f"{self.engine.backend} {self.engine.version}",
            self.engine.file.path,
            measured,
            knee(measured),
            self.start_up,
            peak_memory_bytes(),
            conditions,
            statements=(*self.engine.statements, *statements),
        )


def _started(folder: Path, manifest: Manifest, size: int) -> _Started:
    before = MONOTONIC()
    manifests.read(folder)
    check_files(folder, manifest)
    checked = MONOTONIC()
    engine, runner = opened(folder, manifest)
    loaded = MONOTONIC()
    rows, _ = golden(folder, manifest)
    inputs = _inputs(runner, rows, size)
    ready = MONOTONIC()
    runner.run(inputs)
    answered = MONOTONIC()
    start_up = StartUp((checked - before) / 1e6, (loaded - checked) / 1e6, (answered - ready) / 1e6)
    return _Started(manifest, engine, runner, rows, start_up)


def _inputs(runner: Runner, rows: dict[str, NDArray[Any]], size: int) -> dict[str, NDArray[Any]]:
    return {
        spec.name: np.resize(rows[spec.name], (size, *rows[spec.name].shape[1:])).astype(spec.dtype)
        for spec in runner.inputs
    }


def _bench_python(started: _Started, sizes: Sequence[int], load: Load, settings: Settings, progress: Progress) -> Bench:
    parts = len(sizes) * PARTS
    with progress.step(f"measuring {started.engine.backend}", parts) as advance, watch() as watched:
        found = [_loaded(started, size, load, settings, advance) for size in sizes]
    statements = [
        statement if len(sizes) == 1 else f"at batch {size}: {statement}"
        for size, each in zip(sizes, found, strict=True)
        for statement in each.statements
    ]
    return started.bench(tuple(each.measured for each in found), watched.conditions, statements)


def _loaded(started: _Started, size: int, load: Load, settings: Settings, advance: Callable[[], None]) -> Loaded:
    inputs = started.inputs(size)
    run = partial(started.runner.run, inputs)
    if load.threads == 1 and load.rate_per_s is None:
        found = Loaded(measure(run, size, settings=settings, advance=advance), ())
    else:
        found = under_load(run, size, load, settings=settings)
        for _ in range(PARTS):  # whether a load is nearly over, nobody knows
            advance()
    runner = started.runner.runner if isinstance(started.runner, Fitted) else started.runner
    if not isinstance(runner, TimedRunner):
        return found
    times = runner.gpu_times(inputs, GPU_CALLS)
    return found._replace(measured=msgspec.structs.replace(found.measured, gpu=times))


def _loadgen(
    started: _Started,
    largest: int,
    rate_per_s: float | None,
    settings: Settings,
    scenario: Scenario,
    progress: Progress,
) -> LoadGenSummary:
    rows = {spec.name: started.rows[spec.name].astype(spec.dtype) for spec in started.runner.inputs}
    sizes = BatchRange(started.manifest.batch.minimum, largest, largest)
    with progress.step(f"running LoadGen's {scenario}"):
        return loadgen.run(started.runner.run, rows, sizes, scenario, settings.seconds_at_least, rate_per_s)


def _bench_cpp(folder: Path, manifest: Manifest, sizes: Sequence[int], settings: Settings, progress: Progress) -> Bench:
    program = _program(progress)
    found = []
    with progress.step("measuring the C++ library", len(sizes)) as advance, watch() as watched:
        for size in sizes:
            found.append(measure_native(program, folder, size, settings))
            advance()
    measured = tuple(each.measured for each in found)
    return Bench(
        manifest.model.name,
        manifest.precision,
        "cpp",
        found[0].runtime,
        found[0].file,
        measured,
        knee(measured),
        found[0].start_up,
        max(each.peak_memory_bytes for each in found),
        watched.conditions,
        statements=found[0].passed_over,
    )


class _Pair(NamedTuple):
    compared: Compared
    benches: tuple[Bench, Bench]


def _compare_python(
    folders: tuple[Path, Path],
    manifests: tuple[Manifest, Manifest],
    size: int,
    rounds: int | None,
    settings: Settings,
    progress: Progress,
) -> _Pair:
    with progress.step("loading both"):
        first, second = (_started(*each, size) for each in zip(folders, manifests, strict=True))
    one, other = (partial(each.runner.run, each.inputs(size)) for each in (first, second))
    with progress.step("measuring both in turn"), watch() as watched:
        found = compare_calls(one, other, size, rounds, MONOTONIC, settings)
    benches = (
        first.bench((found.first,), watched.conditions, (ONE_PROCESS,)),
        second.bench((found.second,), watched.conditions, (ONE_PROCESS,)),
    )
    return _Pair(found, benches)


def _compare_cpp(
    folders: tuple[Path, Path],
    manifests: tuple[Manifest, Manifest],
    size: int,
    rounds: int | None,
    settings: Settings,
    progress: Progress,
) -> _Pair:
    program = _program(progress)
    with (
        progress.step("measuring both in turn"),
        served(program, folders[0], size) as first,
        served(program, folders[1], size) as second,
    ):
        time = ToldTime()
        one, other = (partial(time.run, each) for each in (first, second))
        with watch() as watched:
            found = compare_calls(one, other, size, rounds, time, settings)
        benches = (
            _told(first, manifests[0], found.first, watched.conditions),
            _told(second, manifests[1], found.second, watched.conditions),
        )
        return _Pair(found, benches)


def _told(process: Served, manifest: Manifest, measured: Measured, conditions: tuple[Conditions, ...]) -> Bench:
    """What a process of the C++ library says of itself."""
    engine = process.engine
    return Bench(
        manifest.model.name,
        manifest.precision,
        "cpp",
        engine.runtime,
        engine.file,
        (measured,),
        None,
        engine.start_up,
        process.ask("memory"),
        conditions,
        statements=engine.passed_over,
    )


def _program(progress: Progress) -> Path:
    """The one that measures the C++ library, built now or before."""
    return cpp_programs.build(cpp_programs.BENCH, progress) / "deploykit-bench"
