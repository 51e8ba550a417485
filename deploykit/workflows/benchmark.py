"""Latency benchmarks of finished bundles on this machine.

Every verb reads the manifest first and verifies the digest of every file before using any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from deploykit.backends.adapters import CastingRunner
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.open import open_fastest
from deploykit.bundle.verify import check_files, read_golden
from deploykit.core import cpp_programs
from deploykit.core.errors import UsageError
from deploykit.core.values import (
    BatchRange,
    Bench,
    DeviceConditions,
    Engine,
    LatencyComparison,
    LoadGenSummary,
    Measurement,
    Progress,
    Runner,
    Runtime,
    Scenario,
    StartupTimes,
    TimedRunner,
)
from deploykit.evaluate.latency import loadgen
from deploykit.evaluate.latency.alternate import GPU_WARMUP_S
from deploykit.evaluate.latency.clock import MONOTONIC
from deploykit.evaluate.latency.compare import LatencyComparison as CallComparison
from deploykit.evaluate.latency.compare import compare_latency as compare_calls
from deploykit.evaluate.latency.conditions import record_conditions
from deploykit.evaluate.latency.cpp_runtime import BenchProcess, ReportedClock, measure_cpp, start_bench_process
from deploykit.evaluate.latency.load import Load, LoadResult, measure_under_load
from deploykit.evaluate.latency.measure import PROGRESS_STEPS, Settings, measure_calls
from deploykit.evaluate.latency.memory import peak_memory_bytes
from deploykit.evaluate.latency.sweep import find_knee

if TYPE_CHECKING:
    from numpy.typing import NDArray

GPU_CALLS: Final = 50
"""Calls whose medians split the time of a call on a GPU into its parts."""

ONE_PROCESS: Final = (
    "both bundles ran in one process: the peak memory is that of both together, and the second one's load time leaves "
    "out libraries that the first one had imported"
)


def bench_bundle(
    folder: Path,
    runtime: Runtime,
    sizes: Sequence[int],
    load: Load,
    settings: Settings,
    scenario: Scenario | None,
    progress: Progress,
    backend: str | None = None,
) -> Bench:
    """Measure a bundle's latency on this machine at each batch size (default: the smallest that it accepts), with its
    golden inputs; then run LoadGen's `scenario`, if one is given, with batches up to the largest size.

    `backend` names the engine's backend in Python; without it the engine is the one that `deploykit.load` chooses.
    `cpp` first builds the C++ library, which then opens, verifies and measures the bundle on its own, without a load or
    a scenario. UsageError for a size that the bundle does not accept.
    """
    manifest = manifests.read_manifest(folder)
    sizes_or_smallest = tuple(sizes) or (manifest.batch.minimum,)
    for size in sizes_or_smallest:
        _check_size(folder, manifest, size)
    match runtime:
        case "python":
            started = _start_bundle(folder, manifest, sizes_or_smallest[0], backend)
            measured = _bench_python(started, sizes_or_smallest, load, settings, progress)
            if scenario is None:
                return measured
            largest = max(sizes, default=manifest.batch.maximum)
            summary = _run_loadgen(started, largest, load.rate_per_s, settings, scenario, progress)
            return msgspec.structs.replace(measured, loadgen=summary)
        case "cpp":
            return _bench_cpp(folder, manifest, sizes_or_smallest, settings, progress)


def compare_bundles(
    folders: tuple[Path, Path],
    runtime: Runtime,
    size: int | None,
    rounds: int | None,
    settings: Settings,
    limit: float | None,
    progress: Progress,
    backend: str | None = None,
) -> LatencyComparison:
    """Measure two bundles at one batch size in alternating blocks of calls: for `rounds`, or as `settings` say.

    `backend` names the backend of both engines in Python. The default size is the smallest that both accept. The second
    bundle may take `limit` times as long as the first.
    UsageError where one of them does not accept the size.
    """
    first, second = (manifests.read_manifest(folder) for folder in folders)
    common_size = size or max(first.batch.minimum, second.batch.minimum)
    for folder, manifest in zip(folders, (first, second), strict=True):
        _check_size(folder, manifest, common_size)
    match runtime:
        case "python":
            pair = _compare_python(folders, (first, second), common_size, rounds, settings, progress, backend)
        case "cpp":
            pair = _compare_cpp(folders, (first, second), common_size, rounds, settings, progress)
    return LatencyComparison(*pair.benches, pair.calls.ratio, pair.calls.rounds, limit)


def _check_size(folder: Path, manifest: Manifest, size: int) -> None:
    sizes = manifest.batch
    if not sizes.minimum <= size <= sizes.maximum:
        raise UsageError(
            f"{folder} accepts batches of {sizes.minimum} to {sizes.maximum}, not of {size}.",
            "Choose one of these, or export it with another --batch.",
        )


class _StartedBundle(NamedTuple):
    """A loaded bundle that has run once, and the time that this took."""

    manifest: Manifest
    engine: Engine
    runner: Runner
    rows: dict[str, NDArray[Any]]
    start_up: StartupTimes
    skipped_engines: tuple[str, ...]

    def inputs(self, size: int) -> dict[str, NDArray[Any]]:
        """The golden rows, repeated up to `size` rows."""
        return _repeat_rows(self.runner, self.rows, size)

    def make_bench(
        self, measured: tuple[Measurement, ...], conditions: tuple[DeviceConditions, ...], caveats: Sequence[str]
    ) -> Bench:
        """The benchmark result."""
        return Bench(
            self.manifest.model.name,
            self.manifest.precision,
            "python",
            f"{self.engine.backend} {self.engine.version}",
            self.engine.file.path,
            measured,
            find_knee(measured),
            self.start_up,
            peak_memory_bytes(),
            conditions,
            caveats=(*self.skipped_engines, *self.engine.caveats, *caveats),
        )


def _start_bundle(folder: Path, manifest: Manifest, size: int, backend: str | None) -> _StartedBundle:
    """Open, load and run the bundle once, and time these three steps."""
    started_ns = MONOTONIC()
    manifests.read_manifest(folder)
    check_files(folder, manifest)
    verified_ns = MONOTONIC()
    engine, runner, skipped = open_fastest(folder, manifest, backend)
    loaded_ns = MONOTONIC()
    rows, _ = read_golden(folder, manifest)
    inputs = _repeat_rows(runner, rows, size)
    called_ns = MONOTONIC()
    runner.run(inputs)
    returned_ns = MONOTONIC()
    durations = (verified_ns - started_ns, loaded_ns - verified_ns, returned_ns - called_ns)
    start_up = StartupTimes(*(duration / 1e6 for duration in durations))
    return _StartedBundle(manifest, engine, runner, rows, start_up, skipped)


def _repeat_rows(runner: Runner, rows: dict[str, NDArray[Any]], size: int) -> dict[str, NDArray[Any]]:
    return {
        spec.name: np.resize(rows[spec.name], (size, *rows[spec.name].shape[1:])).astype(spec.dtype)
        for spec in runner.inputs
    }


def _bench_python(
    started: _StartedBundle, sizes: Sequence[int], load: Load, settings: Settings, progress: Progress
) -> Bench:
    total = len(sizes) * PROGRESS_STEPS
    with progress.step(f"measuring {started.engine.backend}", total) as advance, record_conditions() as recorded:
        results = [_measure_size(started, size, load, settings, advance) for size in sizes]
    caveats = [
        caveat if len(sizes) == 1 else f"at batch {size}: {caveat}"
        for size, result in zip(sizes, results, strict=True)
        for caveat in result.caveats
    ]
    return started.make_bench(tuple(result.measured for result in results), recorded.conditions, caveats)


def _measure_size(
    started: _StartedBundle, size: int, load: Load, settings: Settings, advance: Callable[[], None]
) -> LoadResult:
    inputs = started.inputs(size)
    run = partial(started.runner.run, inputs)
    if load.threads == 1 and load.rate_per_s is None:
        result = LoadResult(measure_calls(run, size, settings=settings, advance=advance), ())
    else:
        result = measure_under_load(run, size, load, settings=settings)
        for _ in range(PROGRESS_STEPS):  # a load reports no progress while it runs
            advance()
    runner = _without_casts(started.runner)
    if not isinstance(runner, TimedRunner):
        return result
    times = runner.gpu_times(inputs, GPU_CALLS)
    return result._replace(measured=msgspec.structs.replace(result.measured, gpu=times))


def _without_casts(runner: Runner) -> Runner:
    return runner.runner if isinstance(runner, CastingRunner) else runner


def _run_loadgen(
    started: _StartedBundle,
    largest: int,
    rate_per_s: float | None,
    settings: Settings,
    scenario: Scenario,
    progress: Progress,
) -> LoadGenSummary:
    rows = {spec.name: started.rows[spec.name].astype(spec.dtype) for spec in started.runner.inputs}
    sizes = BatchRange(started.manifest.batch.minimum, largest, largest)
    with progress.step(f"running LoadGen's {scenario}"):
        return loadgen.run_loadgen(started.runner.run, rows, sizes, scenario, settings.seconds_at_least, rate_per_s)


def _bench_cpp(folder: Path, manifest: Manifest, sizes: Sequence[int], settings: Settings, progress: Progress) -> Bench:
    program = _build_program(progress)
    runs = []
    with progress.step("measuring the C++ library", len(sizes)) as advance, record_conditions() as recorded:
        for size in sizes:
            runs.append(measure_cpp(program, folder, size, settings))
            advance()
    measured = tuple(run.measured for run in runs)
    return Bench(
        manifest.model.name,
        manifest.precision,
        "cpp",
        runs[0].runtime,
        runs[0].file,
        measured,
        find_knee(measured),
        runs[0].start_up,
        max(run.peak_memory_bytes for run in runs),
        recorded.conditions,
        caveats=runs[0].skipped_engines,
    )


class _Pair(NamedTuple):
    calls: CallComparison
    benches: tuple[Bench, Bench]


def _compare_python(
    folders: tuple[Path, Path],
    manifests: tuple[Manifest, Manifest],
    size: int,
    rounds: int | None,
    settings: Settings,
    progress: Progress,
    backend: str | None,
) -> _Pair:
    with progress.step("loading both bundles"):
        first, second = (_start_bundle(*pair, size, backend) for pair in zip(folders, manifests, strict=True))
    run_first, run_second = (partial(bundle.runner.run, bundle.inputs(size)) for bundle in (first, second))
    on_gpu = any(isinstance(_without_casts(bundle.runner), TimedRunner) for bundle in (first, second))
    with progress.step("measuring both in alternation"), record_conditions() as recorded:
        calls = compare_calls(
            run_first, run_second, size, rounds, MONOTONIC, settings, warmup_s=GPU_WARMUP_S if on_gpu else 0
        )
    benches = (
        first.make_bench((calls.first,), recorded.conditions, (ONE_PROCESS,)),
        second.make_bench((calls.second,), recorded.conditions, (ONE_PROCESS,)),
    )
    return _Pair(calls, benches)


def _compare_cpp(
    folders: tuple[Path, Path],
    manifests: tuple[Manifest, Manifest],
    size: int,
    rounds: int | None,
    settings: Settings,
    progress: Progress,
) -> _Pair:
    program = _build_program(progress)
    with (
        progress.step("measuring both in alternation"),
        start_bench_process(program, folders[0], size) as first,
        start_bench_process(program, folders[1], size) as second,
    ):
        clock = ReportedClock()
        run_first, run_second = (partial(clock.run, process) for process in (first, second))
        on_gpu = any(process.engine.runtime.startswith("TensorRT") for process in (first, second))
        with record_conditions() as recorded:
            calls = compare_calls(
                run_first, run_second, size, rounds, clock, settings, warmup_s=GPU_WARMUP_S if on_gpu else 0
            )
        benches = (
            _make_cpp_bench(first, manifests[0], calls.first, recorded.conditions),
            _make_cpp_bench(second, manifests[1], calls.second, recorded.conditions),
        )
        return _Pair(calls, benches)


def _make_cpp_bench(
    process: BenchProcess, manifest: Manifest, measured: Measurement, conditions: tuple[DeviceConditions, ...]
) -> Bench:
    """The result of one process of the C++ library."""
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
        process.request("memory"),
        conditions,
        caveats=engine.skipped_engines,
    )


def _build_program(progress: Progress) -> Path:
    """Build the program that measures the C++ library, unless it is built already."""
    return cpp_programs.build_programs(cpp_programs.BENCH, progress) / "deploykit-bench"
