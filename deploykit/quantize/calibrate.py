"""What values do tensors take on real samples? A graph with tensors as outputs, and the ranges that they show."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from deploykit.core.errors import InputError, InternalError
from deploykit.core.onnx_io import REMEDY
from deploykit.core.values import Arrays, Calibrated, Convergence, DataRecord, Observer, Range, Ranges, Runner
from deploykit.quantize.observers import Histogram, threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


def expose(source: Path, target: Path, tensors: Collection[str] | None = None) -> None:
    """Write `source` to `target` with these tensors, or every floating-point tensor that a node produces, as further
    outputs.
    """
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file beside the source stays there
    for node in model.graph:
        for output in node.outputs:
            wanted = isinstance(output.type, ir.TensorType) and output.dtype in FLOATS
            if wanted and not output.is_graph_output() and (tensors is None or output.name in tensors):
                model.graph.outputs.append(output)
    ir.save(model, target)


def observe(runner: Runner, batches: Iterable[Arrays], data: DataRecord) -> Ranges:
    """Smallest and largest value of every input and output of `runner` over `batches`, one pass, constant memory.

    Raises InputError where a tensor holds NaN or infinity: no precision can be chosen for such a network.
    """
    seen: dict[str, Range] = {}
    for batch in batches:
        for name, array in {**batch, **runner.run(batch)}.items():
            _widen(seen, name, array, data)
    return Ranges(seen, data)


class _Watched(NamedTuple):
    """What is kept of the tensors while samples stream past: none of it grows with their number."""

    ranges: dict[str, Range]
    histograms: dict[str, Histogram]
    sums: dict[str, NDArray[np.float64]]
    counts: dict[str, int]


def calibrate(
    runner: Runner,
    batches: Iterable[Arrays],
    data: DataRecord,
    quantized: Collection[str],
    inputs: Collection[str],
    observer: Observer,
) -> Calibrated:
    """Ranges of every input and output of `runner`, thresholds of the `quantized` ones among them, and the channels'
    means of `inputs`, the tensors that layers read; one pass, constant memory.

    Raises InputError where a tensor holds NaN or infinity, and where most that are to be quantized are zero throughout.
    """
    watched = _Watched({}, {name: Histogram() for name in quantized}, {}, {})
    done, checkpoints, early = 0, _checkpoints(data.count), {}
    for batch in batches:
        for name, array in {**batch, **runner.run(batch)}.items():
            _widen(watched.ranges, name, array, data)
            if name in watched.histograms:
                watched.histograms[name].add(array)
            if name in inputs and array.ndim > 1:
                _add_means(watched, name, array)
        done += len(next(iter(batch.values())))
        passed = [each for each in checkpoints if each <= done]
        if passed and done < data.count:
            checkpoints = checkpoints[len(passed) :]
            early[done] = _thresholds(watched.histograms, observer)
    _refuse_unseen(watched)
    final = _thresholds(watched.histograms, observer)
    _refuse_silent(final, data)
    ranges = {name: Range(seen.low, seen.high, final.get(name)) for name, seen in sorted(watched.ranges.items())}
    means = {name: tuple(float(x) for x in total / watched.counts[name]) for name, total in watched.sums.items()}
    convergence = tuple(_convergence(samples, before, final) for samples, before in early.items())
    return Calibrated(Ranges(ranges, data), observer, convergence, dict(sorted(means.items())))


def _checkpoints(count: int) -> list[int]:
    """An eighth, a quarter and a half of the samples."""
    return [max(1, count // part) for part in (8, 4, 2)]


def _thresholds(histograms: Mapping[str, Histogram], observer: Observer) -> dict[str, float]:
    return {name: threshold(histogram, observer) for name, histogram in sorted(histograms.items())}


def _convergence(samples: int, before: Mapping[str, float], final: Mapping[str, float]) -> Convergence:
    changes = {name: abs(before[name] - last) / last if last else 0.0 for name, last in final.items()}
    worst = max(changes, key=lambda name: changes[name])
    return Convergence(samples, float(np.median(list(changes.values()))), changes[worst], worst)


def _refuse_unseen(watched: _Watched) -> None:
    """A tensor that the runner never gave would pass for one of zeros."""
    if unseen := sorted(watched.histograms.keys() - watched.ranges.keys()):
        raise InternalError(f"Calibration did not see the tensor {unseen[0]}.", REMEDY)


def _refuse_silent(thresholds: Mapping[str, float], data: DataRecord) -> None:
    """A network whose every tensor is 0 was shown nothing. A few such tensors are dead channels, and quantize well."""
    silent = [name for name, value in thresholds.items() if value == 0]
    if len(silent) > len(thresholds) // 2:
        raise InputError(
            f"{len(silent)} of {len(thresholds)} tensors that are to be quantized were 0 throughout on "
            f"{data.count} samples of {data.name!r}, {silent[0]} among them.",
            "Calibrate on images that show what the network was made for; black ones show nothing.",
        )


def _add_means(watched: _Watched, name: str, array: NDArray[Any]) -> None:
    """Channels are axis 1, as they are for the layers whose bias a mean corrects."""
    others = tuple(i for i in range(array.ndim) if i != 1)
    total = array.sum(axis=others, dtype=np.float64)
    watched.sums[name] = watched.sums.get(name, 0.0) + total
    watched.counts[name] = watched.counts.get(name, 0) + array.size // array.shape[1]


def _widen(seen: dict[str, Range], name: str, array: NDArray[Any], data: DataRecord) -> None:
    now = Range(float(np.min(array)), float(np.max(array)))
    if not np.isfinite([now.low, now.high]).all():
        raise InputError(
            f"The tensor {name} holds NaN or infinity on the samples of {data.name!r}.",
            "Check the weights and the preprocessing: the network is already broken in FP32.",
        )
    before = seen.get(name, now)
    seen[name] = Range(min(before.low, now.low), max(before.high, now.high))
