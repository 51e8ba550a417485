"""How fast a finished bundle is on this machine.

Each verb reads the manifest first and checks every file's digest before any of them is used.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from deploykit import native
from deploykit.bench.clock import MONOTONIC
from deploykit.bench.measure import measure
from deploykit.bench.memory import peak_memory_bytes
from deploykit.bench.native import measure_native
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.verify import check_files, golden
from deploykit.errors import UsageError
from deploykit.opened import opened
from deploykit.values import Bench, Progress, Runtime, StartUp


def bench(folder: Path, runtime: Runtime, batch: int | None, progress: Progress) -> Bench:
    """Latency of a bundle on this machine, at the smallest batch where none is asked for, on its golden inputs.

    With `cpp` the C++ library is built first, and then opens, checks and measures the bundle by itself.
    """
    manifest = manifests.read(folder)
    sizes = manifest.batch
    size = sizes.minimum if batch is None else batch
    if not sizes.minimum <= size <= sizes.maximum:
        raise UsageError(
            f"{folder} takes batches of {sizes.minimum} to {sizes.maximum}, not of {size}.",
            "Choose one of these, or export it with another --batch.",
        )
    match runtime:
        case "python":
            return _bench_python(folder, manifest, size, progress)
        case "cpp":
            program = native.build(native.BENCH, progress) / "deploykit-bench"
            with progress.step("measuring the C++ library"):
                found = measure_native(program, folder, size)
            return Bench(
                manifest.model.name,
                manifest.precision,
                runtime,
                found.runtime,
                found.file,
                (found.measured,),
                None,
                found.start_up,
                found.peak_memory_bytes,
                statements=found.passed_over,
            )


def _bench_python(folder: Path, manifest: Manifest, size: int, progress: Progress) -> Bench:
    moments = [MONOTONIC()]
    manifests.read(folder)
    check_files(folder, manifest)
    moments.append(MONOTONIC())
    engine, runner = opened(folder, manifest)
    moments.append(MONOTONIC())
    rows, _ = golden(folder, manifest)
    inputs = {
        spec.name: np.resize(rows[spec.name], (size, *rows[spec.name].shape[1:])).astype(spec.dtype)
        for spec in runner.inputs
    }
    before = MONOTONIC()
    runner.run(inputs)
    first_ms = (MONOTONIC() - before) / 1e6
    with progress.step(f"measuring {engine.backend}"):
        measured = measure(lambda: runner.run(inputs), size)
    opened_ms, loaded_ms = ((later - earlier) / 1e6 for earlier, later in itertools.pairwise(moments))
    return Bench(
        manifest.model.name,
        manifest.precision,
        "python",
        f"{engine.backend} {engine.version}",
        engine.file.path,
        (measured,),
        None,
        StartUp(opened_ms, loaded_ms, first_ms),
        peak_memory_bytes(),
        statements=engine.statements,
    )
