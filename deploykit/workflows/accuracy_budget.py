"""An accuracy budget for INT8: the layers that lose most stay out of it, one by one, until what is left is good enough.

Layers are ranked once, each quantized alone, on samples of the calibration set; the budget is checked with every layer
that comes out, on the samples that parity is judged on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from deploykit.core import cache
from deploykit.core.calibration.batches import open_data
from deploykit.core.errors import UsageError
from deploykit.core.values import (
    Backend,
    Batch,
    Budget,
    BudgetOptions,
    BudgetStep,
    Head,
    Measure,
    Progress,
    Recipe,
    Runner,
    Sensitivity,
    Value,
)
from deploykit.evaluate.parity import metrics
from deploykit.quantize import sensitivity
from deploykit.quantize.receipt import int8_share
from deploykit.workflows import cache_keys, stages
from deploykit.workflows.int8_candidates import Trial, judged, snr_db
from deploykit.workflows.stages import Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKING_SAMPLES: Final = 16
"""Samples on which layers are ranked: each layer's error is seen on all of them."""

ROUNDING: Final = 1e-9
"""Of points: a drop of exactly half a point is within a budget of 0.5, whatever its last binary digit."""


def within(options: BudgetOptions, trial: Trial, recipe: Recipe, progress: Progress) -> tuple[Recipe, Budget]:
    """The recipe with layers taken out, the worst first, until the budget holds; and the way there."""
    measure, bound = _bound(options)
    start = now = _cost(judged(trial, recipe, progress), measure)
    taken: list[BudgetStep] = []
    worst_first = () if _holds(now, measure, bound) else ranked(trial, progress)
    for layer in worst_first[:-1]:  # with the last one out, nothing would be quantized
        recipe = msgspec.structs.replace(recipe, excluded=(*recipe.excluded, layer.layer))
        before, now = now, _cost(judged(trial, recipe, progress), measure)
        share = int8_share(trial.source, frozenset(recipe.excluded))
        taken.append(BudgetStep(layer.layer, layer.error, before, now, share))
        progress.note(f"{layer.layer} stays out of INT8: {measure} {before:.2f} → {now:.2f}, {share:.1%} of MACs left")
        if _holds(now, measure, bound):
            break
    return recipe, Budget(measure, bound, start, tuple(taken), _holds(now, measure, bound))


def ranked(trial: Trial, progress: Progress) -> tuple[Sensitivity, ...]:
    """Every layer with the error that quantizing it alone adds, the largest first."""
    asked = trial.request.calibration
    assert asked is not None
    data = open_data(asked.data, "calibration", RANKING_SAMPLES, trial.request.options.batch, trial.graph.taken)

    def build(folder: Path) -> None:
        batches = list(data.batches(trial.graph.model))
        error = loss(trial.graph.model.head, _answers(trial.backend, trial.source, batches), batches)
        with progress.step("quantizing layers one by one", sensitivity.count(trial.source)) as advance:
            found = sensitivity.rank(
                trial.source,
                trial.calibrated,
                folder,
                lambda graph: error(_answers(trial.backend, graph, batches)),
                advance,
            )
        for left in folder.iterdir():
            left.unlink()
        stages.save(folder, _Ranked(found))

    key = {"graph": trial.graph.exported.files[0].sha256, "calibrated": trial.calibrated, "data": data.record}
    folder = cache.fetch("ranked", {**key, "backend": trial.backend.identity, **cache_keys.tools()}, build)
    return stages.load(folder, _Ranked).layers


def loss(head: Head, exact: NDArray[np.float64], batches: Sequence[Batch]) -> Callable[[NDArray[np.float64]], float]:
    """What answers lose against the exact ones: likelihood of the labels where every sample has one, else signal."""
    labels = [label for batch in batches for label in batch.labels if label is not None]
    if head == "logits" and len(labels) == len(exact) and max(labels) < exact.shape[1]:
        at_best = metrics.cross_entropy(exact, np.asarray(labels))
        return lambda given: metrics.cross_entropy(given, np.asarray(labels)) - at_best
    return lambda given: float(np.square(given - exact).sum() / np.square(exact).sum())


def _answers(backend: Backend, graph: Path, batches: Sequence[Batch]) -> NDArray[np.float64]:
    """The first output for every sample, a row each."""
    runner: Runner = backend.load(backend.compile(graph, graph.parent), graph.parent)
    name = runner.outputs[0].name
    return np.concatenate([runner.run(batch.inputs)[name].astype(np.float64) for batch in batches])


def _bound(options: BudgetOptions) -> tuple[Measure, float]:
    if options.max_drop is not None:
        return "top-1 drop", options.max_drop
    assert options.min_snr_db is not None
    return "SNR dB", options.min_snr_db


def _cost(verdict: Verdict, measure: Measure) -> float:
    """Points of top-1, or decibels."""
    if measure == "SNR dB":
        return snr_db(verdict)
    accuracy = verdict.parity.accuracy
    if accuracy is None:
        raise UsageError(
            f"--max-drop needs labels, and {verdict.parity.data.name!r} has none for these classes.",
            "Give labelled images with --data, or bound the noise at the output with --min-snr.",
        )
    return 100 * accuracy.drop


def _holds(cost: float, measure: Measure, bound: float) -> bool:
    return cost >= bound if measure == "SNR dB" else cost <= bound + ROUNDING


class _Ranked(Value, frozen=True):
    layers: tuple[Sensitivity, ...]
