"""One network of each family of the catalog, as bundles at FP32, FP16 and INT8, on which the C++ library is tested.

    python -m cpp.bundles FOLDER      FOLDER/NETWORK-PRECISION, unless they are up to date

Exported by the package's own pipeline, for small images and with random weights: the library must compute what PyTorch
computes; the predictions are meaningless. Exit 1 where a bundle is outside tolerance in Python.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final
from unittest import mock

from deploykit.backends.choice import AUTO, resolve_target
from deploykit.cli.progress import TerminalProgress
from deploykit.core.values import (
    BatchRange,
    CalibrationOptions,
    ExportOptions,
    ExportRequest,
    ImageOverrides,
    Precision,
    WeightsSource,
)
from deploykit.evaluate.latency.fp32_beside import Blocks, time_beside_fp32
from deploykit.evaluate.latency.measure import Settings, measure_calls
from deploykit.export.networks import catalog
from deploykit.workflows import export, fp32_beside, stages

PIXELS: Final[dict[str, int]] = {
    "vgg11": 32,
    "nin_cifar10": 16,
    "googlenet": 64,  # OpenVINO pools no 2×2 image with a 3×3 kernel: 32×32 is too small
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "densenet121": 64,
    "fractalnet20": 32,
}
"""The side of a network's square input."""

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8")

PHOTOGRAPHS: Final = "photos"
SAMPLES: Final = 4
CALIBRATION: Final = 16
"""Fewer than useful ranges need; their quality does not matter here."""

ONCE: Final = Settings(window_s=0, agreement=1e9, iterations_at_least=1, seconds_at_least=1e-3)
BRIEF: Final = Blocks(rounds=6, pause_s=0, block_s=0)
"""Latency does not matter here, but a bundle always has one, with FP32's beside it."""


PROCESSES: Final = min(2, os.cpu_count() or 1)
"""In parallel; VGG takes up to 7 GB of memory, the others 2."""


def main() -> int:
    folder = Path(sys.argv[1])
    families = {row.name: row.family for row in catalog.read_catalog()}
    if missing := set(families.values()) - {families[network] for network in PIXELS}:
        print(f"the catalog has families without a network here: {', '.join(sorted(missing))}")
        return 1
    # Otherwise each process starts a thread per processor, and they wait for each other.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // PROCESSES))
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        failures = [
            failure for results in pool.map(functools.partial(export_network, folder), PIXELS) for failure in results
        ]
    for failure in failures:
        print(failure)
    print(f"{len(PIXELS)} families at {', '.join(PRECISIONS)}, {len(failures)} failures")
    return 1 if failures else 0


def export_network(folder: Path, network: str) -> list[str]:
    """Export the network at every precision; returns the failures of parity."""
    failures = []
    for precision in PRECISIONS:
        destination = folder / f"{network}-{precision}"
        once = functools.partial(measure_calls, settings=ONCE)
        beside = functools.partial(time_beside_fp32, settings=ONCE, blocks=BRIEF)
        with (
            mock.patch.object(stages, "measure_calls", once),
            mock.patch.object(fp32_beside, "time_beside_fp32", beside),
        ):
            outcome = export.export(make_request(network, precision), destination, True, TerminalProgress())
        failures += [f"{destination.name}: {failure}" for failure in outcome.manifest.failures]
        print(f"{destination.name}: {'is up to date' if outcome.up_to_date else 'written'}", flush=True)
    return failures


def make_request(network: str, precision: Precision) -> ExportRequest:
    """As `deploykit export NETWORK --input-size … --batch 1:2:4` makes it, with the automatic target."""
    pixels = PIXELS[network]
    return ExportRequest(
        model=network,
        precision=precision,
        weights=WeightsSource("random"),
        image=ImageOverrides(pixels, pixels),
        options=ExportOptions(BatchRange(1, 2, 4)),
        data=PHOTOGRAPHS,
        samples=SAMPLES,
        target=resolve_target(AUTO, precision),
        calibration=CalibrationOptions(PHOTOGRAPHS, CALIBRATION) if precision == "int8" else None,
    )


if __name__ == "__main__":
    sys.exit(main())
