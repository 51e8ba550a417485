"""Quantized graphs on trial: made from one calibrated graph by a recipe, and judged like any other graph.

Each is made and judged once; what a later question asks again comes from the cache.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from deploykit.core import cache
from deploykit.core.calibration.batches import Data
from deploykit.core.values import Backend, Calibrated, ExportRequest, Progress, Recipe, TypedGraph
from deploykit.quantize import int8
from deploykit.workflows import cache_keys, stages
from deploykit.workflows.stages import Answers, Graph, PrecisionGraph, Verdict


class Trial(NamedTuple):
    """All that a quantized graph is made from and judged with, but for the recipe."""

    request: ExportRequest
    graph: Graph
    calibrated: Calibrated
    answers: Answers
    data: Data
    backend: Backend

    @property
    def source(self) -> Path:
        """The exported FP32 graph."""
        return self.graph.folder / self.graph.exported.files[0].path


def quantized(trial: Trial, recipe: Recipe, progress: Progress) -> PrecisionGraph:
    """The graph with its Q/DQ pairs, as `recipe` says."""

    def build(folder: Path) -> None:
        with progress.step("placing Q/DQ pairs"):
            made = int8.quantize(trial.source, trial.calibrated, recipe, folder)
        stages.save(folder, made)

    key = {"graph": trial.graph.exported.files[0].sha256, "calibrated": trial.calibrated, "recipe": recipe}
    folder = cache.fetch("quantized", {**key, **cache_keys.tools()}, build)
    made = stages.load(folder, TypedGraph)
    file = made.files[0]
    return PrecisionGraph(folder, file.path, file.sha256, made.precision, made, trial.calibrated.ranges.data)


def judged(trial: Trial, recipe: Recipe, progress: Progress) -> Verdict:
    """How a recipe's graph answers, beside eager PyTorch."""
    made = quantized(trial, recipe, progress)
    return stages.evaluate_parity(trial.graph, made, trial.answers, trial.backend, trial.data, progress)


def snr_db(verdict: Verdict) -> float:
    """Of the worst output; an answer that is no number is worse than any."""
    found = [output.snr_db for output in verdict.parity.outputs]
    return min((math.inf if snr is None else snr for snr in found), default=-math.inf)
