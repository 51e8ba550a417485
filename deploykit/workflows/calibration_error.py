"""How near quantized graphs are to the FP32 graph on samples of the calibration split: what a choice between them is
made by.

The evaluation samples must not make it, or the verdict on them would be too good.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from deploykit.backends.adapters import CastingRunner
from deploykit.core import cache
from deploykit.core.calibration.batches import open_data
from deploykit.core.onnx_io import place_graph
from deploykit.core.values import Arrays, Runner, Value
from deploykit.workflows import cache_keys, stages
from deploykit.workflows.stages import PrecisionGraph, Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES: Final = 32
"""Calibration samples that graphs are compared on."""


def measure_calibration_snrs(session: Session, graphs: Sequence[PrecisionGraph]) -> tuple[float, ...]:
    """SNR in dB of the worst floating-point output of each graph against the FP32 graph, on calibration samples.

    Every graph is computed as written, whatever the target. ± the largest float stands for an infinite SNR: + where all
    outputs are identical, − where one is not finite.
    """
    calibration, reference = session.request.calibration, session.reference
    assert calibration is not None, "only graphs that were calibrated are compared"
    batch, inputs = session.request.options.batch, session.graph.tensor_inputs
    data = open_data(calibration.data, "calibration", min(SAMPLES, calibration.count), batch, inputs)

    def write_snrs(folder: Path) -> None:
        exact = reference.load(reference.compile(session.graph.path, session.graph.folder), session.graph.folder)
        with tempfile.TemporaryDirectory() as scratch:
            runners = [_load_as_written(session, graph, Path(scratch) / str(i)) for i, graph in enumerate(graphs)]
            powers = [_OutputPowers() for _ in runners]
            title = f"comparing INT8 candidates on {data.record.name}"
            with session.progress.step(title, data.length) as advance:
                for arrays, _ in data.batches(session.graph.model, advance):
                    expected = exact.run(arrays)
                    for power, runner in zip(powers, runners, strict=True):
                        power.add(expected, runner.run(arrays))
        stages.save_entry(folder, _SnrEntry(tuple(power.worst_snr_db for power in powers)))

    key = {
        "graph": session.graph.sha256,
        "candidates": [graph.sha256 for graph in graphs],
        "data": data.record,
        "backend": reference.identity,
    }
    folder = cache.fetch_or_build("calibration error", {**key, **cache_keys.tool_versions()}, write_snrs)
    return stages.load_entry(folder, _SnrEntry).snrs_db


def _load_as_written(session: Session, graph: PrecisionGraph, folder: Path) -> Runner:
    """A runner of the graph without fusions in ONNX Runtime; where that is not installed, as the reference compiles
    it, in `folder`.
    """
    if session.reference.name == "onnxruntime":
        from deploykit.backends.onnxruntime import open_unoptimized

        return CastingRunner(open_unoptimized(graph.path))
    folder.mkdir()
    place_graph(graph.path, folder / graph.file)
    return CastingRunner(session.reference.load(session.reference.compile(folder / graph.file, folder), folder))


class _OutputPowers:
    """Sums of squares over all samples, by output: of the exact values, and of the differences from them."""

    def __init__(self) -> None:
        self._signal: dict[str, float] = {}
        self._noise: dict[str, float] = {}

    def add(self, exact: Arrays, candidate: Arrays) -> None:
        """Add the floating-point outputs of one batch."""
        for name, values in exact.items():
            if np.issubdtype(values.dtype, np.floating):
                difference = candidate[name].astype(np.float64) - values
                self._signal[name] = self._signal.get(name, 0.0) + _sum_of_squares(values)
                self._noise[name] = self._noise.get(name, 0.0) + _sum_of_squares(difference)

    @property
    def worst_snr_db(self) -> float:
        """The smallest SNR of an output."""
        snrs = [_ratio_db(signal, self._noise[name]) for name, signal in self._signal.items()]
        return min(snrs, default=LARGEST)


LARGEST: Final = sys.float_info.max
"""Stands for infinity, which JSON cannot hold."""


def _sum_of_squares(values: NDArray[np.floating]) -> float:
    total = float(np.square(values.astype(np.float64)).sum())
    return total if math.isfinite(total) else math.inf


def _ratio_db(signal: float, noise: float) -> float:
    if noise == 0:
        return LARGEST
    return 10 * math.log10(signal / noise) if 0 < signal < math.inf and noise < math.inf else -LARGEST


class _SnrEntry(Value, frozen=True):
    snrs_db: tuple[float, ...]
