"""One network of each family of the catalog, as bundles at FP32, FP16 and INT8: what the C++ library is tried on.

    python -m cpp.bundles FOLDER      FOLDER/NETWORK-PRECISION, left alone where they are what would be made

Exported by the package's own pipeline, for few pixels: the weights are random, and what is asked of the library is that
it computes what PyTorch computes, not that the answers mean anything. Exit 1 where one is not in parity already here.
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

from deploykit.backends.choice import AUTO, chosen
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
from deploykit.evaluate.latency.measure import Settings, measure
from deploykit.export.networks import catalog
from deploykit.workflows import export, stages

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
"""Fewer than ranges need that are to serve: here, they need only be somebody's."""

ONCE: Final = Settings(window_s=0, agreement=1e9, iterations_at_least=1, seconds_at_least=1e-3)
"""Latency is no concern here; a bundle has one all the same."""


PROCESSES: Final = min(2, os.cpu_count() or 1)
"""At once; VGG takes up to 7 GB of memory, the others 2."""


def main() -> int:
    folder = Path(sys.argv[1])
    families = {row.name: row.family for row in catalog.rows()}
    if missing := set(families.values()) - {families[network] for network in PIXELS}:
        print(f"the catalog has families without a network here: {', '.join(sorted(missing))}")
        return 1
    # Each process would else start a thread per processor, and they would wait for each other.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // PROCESSES))
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        failures = [failure for several in pool.map(functools.partial(exported, folder), PIXELS) for failure in several]
    for failure in failures:
        print(failure)
    print(f"{len(PIXELS)} families at {', '.join(PRECISIONS)}, {len(failures)} failures")
    return 1 if failures else 0


def exported(folder: Path, network: str) -> list[str]:
    """The network at every precision; which of them is not in parity, and why."""
    failures = []
    for precision in PRECISIONS:
        destination = folder / f"{network}-{precision}"
        with mock.patch.object(stages, "measure", functools.partial(measure, settings=ONCE)):
            outcome = export.export(request(network, precision), destination, True, TerminalProgress())
        failures += [f"{destination.name}: {failure}" for failure in outcome.manifest.failures]
        print(f"{destination.name}: {'is up to date' if outcome.up_to_date else 'written'}", flush=True)
    return failures


def request(network: str, precision: Precision) -> ExportRequest:
    """What `deploykit export NETWORK --input-size … --batch 1:2:4` asks for, with the target that is automatic."""
    pixels = PIXELS[network]
    return ExportRequest(
        model=network,
        precision=precision,
        weights=WeightsSource("random"),
        image=ImageOverrides(pixels, pixels),
        options=ExportOptions(BatchRange(1, 2, 4)),
        data=PHOTOGRAPHS,
        samples=SAMPLES,
        target=chosen(AUTO, precision),
        calibration=CalibrationOptions(PHOTOGRAPHS, CALIBRATION) if precision == "int8" else None,
    )


if __name__ == "__main__":
    sys.exit(main())
