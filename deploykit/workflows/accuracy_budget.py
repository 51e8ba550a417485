"""The accuracy budget of INT8: the most sensitive layers are excluded one by one until the rest meets the budget.

Layers are ranked once, each quantized in isolation, on samples of the calibration set; the budget is evaluated after
every exclusion, on the evaluation samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import numpy as np

from deploykit.core import cache
from deploykit.core.calibration.batches import open_data
from deploykit.core.errors import UsageError
from deploykit.core.values import (
    Backend,
    Batch,
    Budget,
    BudgetMetric,
    BudgetOptions,
    BudgetStep,
    Head,
    Recipe,
    Runner,
    Sensitivity,
    Value,
)
from deploykit.evaluate.parity import metrics
from deploykit.quantize import sensitivity
from deploykit.quantize.receipt import compute_int8_share
from deploykit.workflows import cache_keys, stages
from deploykit.workflows.int8_candidates import Int8Candidates, evaluate_recipe, worst_snr_db
from deploykit.workflows.stages import Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKING_SAMPLES: Final = 16
"""Samples on which layers are ranked; the error of every layer is measured on all of them."""

ROUNDING: Final = 1e-9
"""In percentage points: a drop of exactly half a point meets a budget of 0.5, whatever its last binary digit."""

IDENTICAL_DB: Final = 999.0
"""SNR of identical outputs, and its negative that of outputs that are not finite: JSON cannot hold infinity."""


def fit_budget(options: BudgetOptions, candidates: Int8Candidates, recipe: Recipe) -> tuple[Recipe, Budget]:
    """Exclude layers from the recipe, the most sensitive first, until the budget is met; also returns each step."""
    metric, limit = _limit(options)
    start = current = _drop_or_snr(evaluate_recipe(candidates, recipe), metric)
    steps: list[BudgetStep] = []
    worst_first = () if _is_met(current, metric, limit) else rank_layers(candidates)
    for layer in worst_first[:-1]:  # excluding the last one would leave nothing quantized
        recipe = msgspec.structs.replace(recipe, excluded=(*recipe.excluded, layer.layer))
        before, current = current, _drop_or_snr(evaluate_recipe(candidates, recipe), metric)
        share = compute_int8_share(candidates.source, frozenset(recipe.excluded))
        steps.append(BudgetStep(layer.layer, layer.error, before, current, share))
        candidates.session.progress.note(
            f"{layer.layer} excluded from INT8: {metric} {before:.2f} → {current:.2f}, INT8 share {share:.1%} of MACs"
        )
        if _is_met(current, metric, limit):
            break
    return recipe, Budget(metric, limit, start, tuple(steps), _is_met(current, metric, limit))


def rank_layers(candidates: Int8Candidates) -> tuple[Sensitivity, ...]:
    """Every layer with the error that quantizing it alone adds, the largest first."""
    session, calibrated = candidates
    request, model, backend = session.request, session.graph.model, session.backend
    assert request.calibration is not None
    name, inputs = request.calibration.data, session.graph.tensor_inputs
    data = open_data(name, "calibration", RANKING_SAMPLES, request.options.batch, inputs)

    def write_ranking(folder: Path) -> None:
        batches = list(data.batches(model))
        loss = make_loss(model.head, _run_batches(backend, candidates.source, batches), batches)
        count = sensitivity.count_layers(candidates.source)
        with session.progress.step("quantizing layers one by one", count) as advance:
            ranking = sensitivity.rank_by_sensitivity(
                candidates.source,
                calibrated,
                folder,
                lambda graph: loss(_run_batches(backend, graph, batches)),
                advance,
            )
        for temporary in folder.iterdir():
            temporary.unlink()
        stages.save_entry(folder, _RankingEntry(ranking))

    key = {"graph": session.graph.sha256, "calibrated": calibrated, "data": data.record, "backend": backend.identity}
    folder = cache.fetch_or_build("sensitivity", {**key, **cache_keys.tool_versions()}, write_ranking)
    return stages.load_entry(folder, _RankingEntry).layers


Outputs: TypeAlias = "Mapping[str, NDArray[np.float64]]"
"""One row per sample in each output, the first output first."""


def make_loss(head: Head, exact: Outputs, batches: Sequence[Batch]) -> Callable[[Outputs], float]:
    """The loss of outputs against the `exact` ones: the rise in cross-entropy where every sample has a label, else the
    mean of all outputs' noise-to-signal ratios, so that each counts alike whatever its size and unit.

    Labels are those of the first output, of which top-1 accuracy is measured too.
    """
    labels = [label for batch in batches for label in batch.labels if label is not None]
    first = next(iter(exact))
    if head == "logits" and len(labels) == len(exact[first]) and max(labels) < exact[first].shape[1]:
        best = metrics.cross_entropy(exact[first], np.asarray(labels))
        return lambda outputs: metrics.cross_entropy(outputs[first], np.asarray(labels)) - best
    return lambda outputs: sum(_noise_ratio(outputs[name], exact[name]) for name in exact) / len(exact)


def _noise_ratio(output: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    """Noise over signal; infinite where an output that is 0 throughout is not any more."""
    noise, signal = float(np.square(output - exact).sum()), float(np.square(exact).sum())
    return noise / signal if signal > 0 else math.inf if noise > 0 else 0.0


def _run_batches(backend: Backend, graph: Path, batches: Sequence[Batch]) -> Outputs:
    """Every output for every sample."""
    runner: Runner = backend.load(backend.compile(graph, graph.parent), graph.parent)
    rows = [runner.run(batch.inputs) for batch in batches]
    return {
        spec.name: np.concatenate([outputs[spec.name].astype(np.float64) for outputs in rows])
        for spec in runner.outputs
    }


def _limit(options: BudgetOptions) -> tuple[BudgetMetric, float]:
    if options.max_drop is not None:
        return "top-1 drop", options.max_drop
    assert options.min_snr_db is not None
    return "SNR dB", options.min_snr_db


def _drop_or_snr(verdict: Verdict, metric: BudgetMetric) -> float:
    """The drop in top-1 accuracy in percentage points, or the worst output's SNR in dB."""
    if metric == "SNR dB":
        return min(max(worst_snr_db(verdict), -IDENTICAL_DB), IDENTICAL_DB)
    accuracy = verdict.parity.accuracy
    if accuracy is None:
        raise UsageError(
            f"--max-drop needs labels, and {verdict.parity.data.name!r} has none for these classes.",
            "Give labelled images with --data, or set a smallest output SNR with --min-snr.",
        )
    return 100 * accuracy.drop


def _is_met(drop_or_snr: float, metric: BudgetMetric, limit: float) -> bool:
    return drop_or_snr >= limit if metric == "SNR dB" else drop_or_snr <= limit + ROUNDING


class _RankingEntry(Value, frozen=True):
    layers: tuple[Sensitivity, ...]
