"""Attribution of errors to stages: each stage's outputs are compared with those of the previous stage and PyTorch's.

An error of one stage propagates to all later ones, so that compared with eager PyTorch all of them fail. Compared with
the previous stage only the faulty one fails, and it is checked against the bounds of its own precision: a wrong
transpose cannot hide among INT8 rounding errors.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from deploykit.core.values import (
    Arrays,
    DataRecord,
    Faithfulness,
    Head,
    Parity,
    Precision,
    PrecisionCost,
    Stage,
    StageParity,
    Stages,
    Tolerance,
)
from deploykit.evaluate.parity.compare import PairedOutputs, check_bounds, measure_outputs
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.tolerances import FP32, UNBOUNDED, for_fp32
from deploykit.evaluate.parity.verdict import JudgedNetwork, JudgedOutputs

EXPORT_CAVEAT = "an export checks neither preprocessing nor C++: deploykit parity BUNDLE --stages"


class StageResult(NamedTuple):
    """A stage, and the bounds that all stages up to and including it violate together."""

    parity: StageParity
    together: tuple[str, ...] = ()


class StageAttribution:
    """Compares the stages in order, on the same samples.

    `truth` holds eager PyTorch's outputs by name, sample axis first; `whole` is the tolerance of the bundle. At FP32
    all stages together must meet it; at another precision their sum is what the graph's precision costs.
    """

    def __init__(self, truth: Arrays, data: DataRecord, head: Head, whole: Tolerance) -> None:
        self.previous_outputs = truth
        """Outputs of the last stage that was run."""
        self._truth = truth
        self._data = data
        self._head = head
        self._whole = whole
        self._results: list[StageResult] = []

    def add_stage(self, stage: Stage, subject: str, tolerance: Tolerance, outputs: Arrays, previous: Arrays) -> None:
        """Compare a stage's outputs with those of the previous stage, within a tolerance, and with eager PyTorch's."""
        if self._skip_without_previous(stage, subject, tolerance, previous):
            return
        own = self._measure(previous, outputs)
        failures = check_bounds(own, len(next(iter(previous.values()))), tolerance)
        self._append(StageParity(stage, subject, (), own.outputs, tolerance, failures), outputs)

    def add_judged_stage(
        self,
        stage: Stage,
        subject: str,
        tolerance: Tolerance | None,
        outputs: Arrays,
        previous: Arrays,
        failures: tuple[str, ...],
    ) -> None:
        """Add a stage that was judged elsewhere: `failures` are why it fails, `tolerance` is the bound on its SNR."""
        if not self._skip_without_previous(stage, subject, tolerance, previous):
            own = self._measure(previous, outputs)
            self._append(StageParity(stage, subject, (), own.outputs, tolerance, failures), outputs)

    def fail_stage(self, stage: Stage, subject: str, tolerance: Tolerance | None, failure: str) -> None:
        """Record a stage that failed to compute outputs."""
        self._results.append(StageResult(StageParity(stage, subject, (), (), tolerance, (failure,))))

    def skip_stage(self, stage: Stage, subject: str, tolerance: Tolerance | None, reason: str) -> None:
        """Record a stage that cannot be run on this machine."""
        self._results.append(StageResult(StageParity(stage, subject, (), (), tolerance, (), reason)))

    def summarize(self, caveats: tuple[str, ...]) -> Stages:
        """All stages so far. `caveats` are limits of the comparison that the caller knows."""
        unlabelled = (None,) * self._data.count
        same = PairedOutputs(self._truth, self._truth, unlabelled)
        general = measure_outputs(same, self._whole, self._data, self._head).caveats
        stages = Stages(tuple(result.parity for result in self._results), self._data, (*caveats, *general))
        if stages.failing_stage is not None:
            return stages
        together = (f"{result.parity.subject}: {failure}" for result in self._results for failure in result.together)
        return Stages(stages.stages, stages.data, stages.caveats, tuple(together))

    def _skip_without_previous(self, stage: Stage, subject: str, tolerance: Tolerance | None, previous: Arrays) -> bool:
        if all(np.isfinite(array).all() for array in previous.values()):
            return False
        reason = "the previous stage computes NaN or infinity, which nothing can be compared with"
        self.skip_stage(stage, subject, tolerance, reason)
        return True

    def _append(self, parity: StageParity, outputs: Arrays) -> None:
        whole = self._measure(self._truth, outputs)
        together = check_bounds(whole, self._data.count, self._whole) if self._whole.name == FP32.name else ()
        self._results.append(StageResult(msgspec.structs.replace(parity, outputs=whole.outputs), together))

    def _measure(self, reference: Arrays, candidate: Arrays) -> Parity:
        unlabelled = (None,) * self._data.count
        return measure_outputs(PairedOutputs(reference, candidate, unlabelled), UNBOUNDED, self._data, self._head)


def attribute_at_export(network: JudgedNetwork, outputs: JudgedOutputs, parity: Parity) -> Stages:
    """The stages that an export measures, on the samples whose graphs were computed as written; `parity` is the verdict
    on them.
    """
    count = len(next(iter(outputs.exported.outputs.values())))
    truth = {name: array[:count] for name, array in outputs.oracle.items()}
    engine = {name: array[:count] for name, array in outputs.engine.outputs.items()}
    exact = for_fp32(network.weights.trained)
    attribution = StageAttribution(
        truth, msgspec.structs.replace(network.data, count=count), network.head, parity.tolerance
    )
    attribution.add_stage("export", outputs.exported.subject, exact, outputs.exported.outputs, truth)
    if outputs.portable is None:
        attribution.add_stage("engine", outputs.engine.subject, exact, engine, outputs.exported.outputs)
        return attribution.summarize((EXPORT_CAVEAT,))
    assert parity.cost is not None
    assert outputs.compiled is not None
    stage, cost = conversion_stage(network.precision), parity.cost
    failures = cost.failures if outputs.form is None else ()  # where there is a form, it is what runs
    previous = outputs.exported.outputs
    attribution.add_judged_stage(
        stage,
        outputs.portable.subject,
        cost_tolerance(network.precision, cost),
        outputs.portable.outputs,
        previous,
        failures,
    )
    if outputs.form is not None and parity.form_cost is not None:
        tolerance = cost_tolerance(network.precision, parity.form_cost)
        attribution.add_judged_stage(
            "form",
            outputs.form.subject,
            tolerance,
            outputs.form.outputs,
            outputs.portable.outputs,
            parity.form_cost.failures,
        )
    add_engine_stage(attribution, GraphOutputs(outputs.engine.subject, engine), outputs.compiled, parity.faithfulness)
    return attribution.summarize((EXPORT_CAVEAT,))


def add_engine_stage(
    attribution: StageAttribution, engine: GraphOutputs, compiled: GraphOutputs, faithfulness: Faithfulness | None
) -> None:
    """Add an engine, judged by its faithfulness to the graph that it was compiled from."""
    assert faithfulness is not None
    tolerance = engine_tolerance(faithfulness)
    attribution.add_judged_stage(
        "engine", engine.subject, tolerance, engine.outputs, compiled.outputs, faithfulness.failures
    )


def engine_tolerance(faithfulness: Faithfulness) -> Tolerance:
    """The bound on an engine's SNR against its graph."""
    least_db = min(
        (part.min_snr_db for part in faithfulness.parts if part.min_snr_db is not None), default=UNBOUNDED.min_snr_db
    )
    return Tolerance("faithful to its graph", None, None, least_db, None, {"min_snr_db": faithfulness.reason})


def cost_tolerance(precision: Precision, cost: PrecisionCost) -> Tolerance | None:
    """The bound on the SNR of a graph of that precision; None where it is judged in the terms of its outputs alone."""
    bounds = [part.min_snr_db for part in cost.parts if part.min_snr_db is not None]
    return Tolerance(precision, None, None, min(bounds), None, {"min_snr_db": cost.reason}) if bounds else None


def conversion_stage(precision: Precision) -> Stage:
    """The stage that gives a graph its precision."""
    return "Q/DQ" if precision in ("int8", "int8-fp16") else "cast"


def graph_name(precision: Precision) -> str:
    """The converted graph, in words."""
    match precision:
        case "fp32":
            return "the exported graph"
        case "fp16" | "bf16":
            return f"the graph cast to {precision.upper()}"
        case "int8" | "int8-fp16":
            return "the graph with Q/DQ pairs"
