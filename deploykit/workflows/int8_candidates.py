"""INT8 candidates: graphs quantized from one calibration by different recipes, each evaluated like any other graph.

Every candidate is quantized and evaluated once; the cache answers when it is needed again.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from deploykit.core import cache
from deploykit.core.values import CalibrationResult, PrecisionGraphRecord, Recipe
from deploykit.quantize import int8
from deploykit.workflows import cache_keys, stages
from deploykit.workflows.stages import PrecisionGraph, Session, Verdict


class Int8Candidates(NamedTuple):
    """What quantized graphs are made from and evaluated with; only the recipe varies."""

    session: Session
    calibrated: CalibrationResult

    @property
    def source(self) -> Path:
        """The exported FP32 graph."""
        return self.session.graph.path


def quantize_graph(candidates: Int8Candidates, recipe: Recipe) -> PrecisionGraph:
    """The graph with Q/DQ nodes inserted by `recipe`."""
    session, calibrated = candidates

    def write_quantized(folder: Path) -> None:
        with session.progress.step("placing Q/DQ pairs"):
            record = int8.write_quantized_graph(candidates.source, calibrated, recipe, folder)
        stages.save_entry(folder, record)

    key = {"graph": session.graph.sha256, "calibrated": calibrated, "recipe": recipe}
    folder = cache.fetch_or_build("quantized", {**key, **cache_keys.tool_versions()}, write_quantized)
    record = stages.load_entry(folder, PrecisionGraphRecord)
    return PrecisionGraph(folder, record.files[0].path, record.sha256, record.precision, record, calibrated.ranges.data)


def evaluate_recipe(candidates: Int8Candidates, recipe: Recipe) -> Verdict:
    """Parity of the graph that `recipe` gives."""
    return stages.compare_engine(candidates.session, quantize_graph(candidates, recipe))


def worst_snr_db(verdict: Verdict) -> float:
    """SNR of the worst output; infinity where outputs are identical, minus infinity where none could be measured."""
    figures = [output.snr_db for output in verdict.parity.outputs]
    return min((math.inf if snr is None else snr for snr in figures), default=-math.inf)
