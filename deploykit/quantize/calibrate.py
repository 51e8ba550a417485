"""Ranges of a network's tensors on real samples: a graph with tensors as extra outputs, and the observation of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.errors import InputError, InternalError
from deploykit.core.onnx_io import REMEDY
from deploykit.core.values import Arrays, CalibrationResult, Convergence, DataRecord, Observer, Range, Ranges, Runner
from deploykit.quantize.observers import Histogram, compute_threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


def add_graph_outputs(source: Path, target: Path, tensors: Collection[str] | None = None) -> None:
    """Write `source` to `target` with `tensors` as extra outputs; None: every floating-point output of a node."""
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file next to the source stays there
    for node in model.graph:
        for output in node.outputs:
            is_float = isinstance(output.type, ir.TensorType) and output.dtype in FLOAT_TYPES
            if is_float and not output.is_graph_output() and (tensors is None or output.name in tensors):
                model.graph.outputs.append(output)
    onnx_io.save_model(model, target)


def observe_ranges(runner: Runner, batches: Iterable[Arrays], data: DataRecord) -> Ranges:
    """Smallest and largest value of every input and output of `runner` over `batches`: one pass, constant memory.

    Raises InputError where a tensor holds NaN or infinity: no precision can be chosen for such a network.
    """
    ranges: dict[str, Range] = {}
    for batch in batches:
        for name, array in {**batch, **runner.run(batch)}.items():
            _extend_range(ranges, name, array, data)
    return Ranges(ranges, data)


class _TensorStatistics(NamedTuple):
    """Statistics by tensor name while samples stream through; their size does not depend on the number of samples."""

    ranges: dict[str, Range]
    histograms: dict[str, Histogram]
    sums: dict[str, NDArray[np.float64]]
    """Sum of each channel, shape (channels,)."""
    counts: dict[str, int]
    """Values per channel."""


def calibrate(
    runner: Runner,
    batches: Iterable[Arrays],
    data: DataRecord,
    quantized: Collection[str],
    inputs: Collection[str],
    observer: Observer,
) -> CalibrationResult:
    """Observe every input and output of `runner` in one pass and constant memory.

    The result holds the ranges of all of them, the thresholds of the tensors in `quantized`, and the channel means of
    the tensors in `inputs`, which layers read. Raises InputError where a tensor holds NaN or infinity, and where more
    than half of the tensors to be quantized are zero on all samples.
    """
    statistics = _TensorStatistics({}, {name: Histogram() for name in quantized}, {}, {})
    done, checkpoints, early = 0, _checkpoint_counts(data.count), {}
    for batch in batches:
        for name, array in {**batch, **runner.run(batch)}.items():
            _extend_range(statistics.ranges, name, array, data)
            if name in statistics.histograms:
                statistics.histograms[name].add(array)
            if name in inputs and array.ndim > 1 and array.size > 0:
                _add_channel_sums(statistics, name, array)
        done += len(next(iter(batch.values())))
        reached = [checkpoint for checkpoint in checkpoints if checkpoint <= done]
        if reached and done < data.count:
            checkpoints = checkpoints[len(reached) :]
            early[done] = _compute_thresholds(statistics.histograms, observer)
    _require_all_observed(statistics)
    final = _compute_thresholds(statistics.histograms, observer)
    _require_nonzero_tensors(final, data)
    ranges = {name: Range(r.low, r.high, final.get(name)) for name, r in sorted(statistics.ranges.items())}
    means = {name: tuple(float(x) for x in total / statistics.counts[name]) for name, total in statistics.sums.items()}
    convergence = tuple(_compare_thresholds(samples, before, final) for samples, before in early.items())
    return CalibrationResult(Ranges(ranges, data), observer, convergence, dict(sorted(means.items())))


def _checkpoint_counts(count: int) -> list[int]:
    """Sample counts at which convergence is recorded: an eighth, a quarter and a half of all."""
    return [max(1, count // part) for part in (8, 4, 2)]


def _compute_thresholds(histograms: Mapping[str, Histogram], observer: Observer) -> dict[str, float]:
    return {name: compute_threshold(histogram, observer) for name, histogram in sorted(histograms.items())}


def _compare_thresholds(samples: int, before: Mapping[str, float], final: Mapping[str, float]) -> Convergence:
    changes = {name: abs(before[name] - last) / last if last else 0.0 for name, last in final.items()}
    worst = max(changes, key=lambda name: changes[name])
    return Convergence(samples, float(np.median(list(changes.values()))), changes[worst], worst)


def _require_all_observed(statistics: _TensorStatistics) -> None:
    """InternalError for a tensor that the runner did not return: its empty histogram would read as all zeros."""
    if missing := sorted(statistics.histograms.keys() - statistics.ranges.keys()):
        raise InternalError(f"Calibration did not see the tensor {missing[0]}.", REMEDY)


def _require_nonzero_tensors(thresholds: Mapping[str, float], data: DataRecord) -> None:
    """InputError where over half of the tensors are all zeros; a few are dead channels, which quantize well."""
    zero = [name for name, value in thresholds.items() if value == 0]
    if len(zero) > len(thresholds) // 2:
        raise InputError(
            f"{len(zero)} of {len(thresholds)} tensors to be quantized are all zeros on the {data.count} samples of "
            f"{data.name!r}, for example {zero[0]}.",
            "Calibrate on typical inputs of the network; black images excite none of its layers.",
        )


def _add_channel_sums(statistics: _TensorStatistics, name: str, array: NDArray[Any]) -> None:
    """Add the samples of one batch; channels are axis 1, as in the layers whose bias the means correct."""
    # array: (N, channels, …) → total: (channels,)
    others = tuple(axis for axis in range(array.ndim) if axis != 1)
    total = array.sum(axis=others, dtype=np.float64)
    statistics.sums[name] = statistics.sums.get(name, 0.0) + total
    statistics.counts[name] = statistics.counts.get(name, 0) + array.size // array.shape[1]


def _extend_range(ranges: dict[str, Range], name: str, array: NDArray[Any], data: DataRecord) -> None:
    if array.size == 0:  # nothing was detected in this batch, for example
        return
    batch = Range(float(np.min(array)), float(np.max(array)))
    if not np.isfinite([batch.low, batch.high]).all():
        raise InputError(
            f"The tensor {name} holds NaN or infinity on the samples of {data.name!r}.",
            "Check the weights and the preprocessing: the network is already broken in FP32.",
        )
    before = ranges.get(name, batch)
    ranges[name] = Range(min(before.low, batch.low), max(before.high, batch.high))
