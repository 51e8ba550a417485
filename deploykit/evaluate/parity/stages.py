"""Attribution of errors to stages: each stage's outputs are compared with those of the previous stage and PyTorch's.

An error of one stage propagates to all later ones, so that compared with eager PyTorch all of them fail. Compared with
the previous stage only the faulty one fails, and it is checked against the bounds of its own precision: a wrong
transpose cannot hide among INT8 rounding errors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deploykit.core.values import Arrays, DataRecord, Head, Parity, Precision, Stage, StageParity, Stages, Tolerance
from deploykit.evaluate.parity.compare import PairedOutputs, compare_outputs

EXPORT_CAVEAT = (
    "an export checks precision conversion and engine together, and neither preprocessing nor C++; to check every "
    "stage: deploykit parity BUNDLE --stages"
)


class StageResult(NamedTuple):
    """A stage, and the bounds that all stages up to and including it violate together."""

    parity: StageParity
    together: tuple[str, ...] = ()


class StageAttribution:
    """Compares the stages in order, on the same samples.

    `truth` holds eager PyTorch's outputs by name, sample axis first; `whole` is the tolerance of all stages together.
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
        """Compare a stage's outputs with those of the previous stage, and with eager PyTorch's."""
        if not all(np.isfinite(array).all() for array in previous.values()):
            reason = "the previous stage computes NaN or infinity, which nothing can be compared with"
            self.skip_stage(stage, subject, tolerance, reason)
            return
        own, whole = self._compare(previous, outputs, tolerance), self._compare(self._truth, outputs, self._whole)
        parity = StageParity(stage, subject, whole.outputs, own.outputs, tolerance, own.failures)
        self._results.append(StageResult(parity, whole.failures))

    def fail_stage(self, stage: Stage, subject: str, tolerance: Tolerance, failure: str) -> None:
        """Record a stage that failed to compute outputs."""
        self._results.append(StageResult(StageParity(stage, subject, (), (), tolerance, (failure,))))

    def skip_stage(self, stage: Stage, subject: str, tolerance: Tolerance, reason: str) -> None:
        """Record a stage that cannot be run on this machine."""
        self._results.append(StageResult(StageParity(stage, subject, (), (), tolerance, (), reason)))

    def summarize(self, caveats: tuple[str, ...]) -> Stages:
        """All stages so far. `caveats` are limits of the comparison that the caller knows."""
        general = self._compare(self._truth, self._truth, self._whole).caveats
        stages = Stages(tuple(result.parity for result in self._results), self._data, (*caveats, *general))
        if stages.failing_stage is not None:
            return stages
        together = (f"{result.parity.subject}: {failure}" for result in self._results for failure in result.together)
        return Stages(stages.stages, stages.data, stages.caveats, tuple(together))

    def _compare(self, reference: Arrays, candidate: Arrays, tolerance: Tolerance) -> Parity:
        unlabelled = (None,) * self._data.count
        return compare_outputs(PairedOutputs(reference, candidate, unlabelled), tolerance, self._data, self._head)


def attribute_at_export(exported: Parity, converted: Parity, precision: Precision, engine: str) -> Stages:
    """The stages that an export measures: the FP32 graph, and the converted graph in its `engine`, each compared with
    eager PyTorch.

    Precision conversion and engine are not measured separately: they fail together where the FP32 graph passes.
    """
    first = StageParity(
        "export", f"the FP32 graph in {engine}", exported.outputs, exported.outputs, exported.tolerance,
        exported.failures,
    )  # fmt: skip
    if precision == "fp32":
        return Stages((first,), exported.data, (EXPORT_CAVEAT,))
    second = StageParity(
        "engine", f"{graph_name(precision)} in {engine}", converted.outputs, (), converted.tolerance, converted.failures
    )
    return Stages((first, second), converted.data, (EXPORT_CAVEAT,))


def graph_name(precision: Precision) -> str:
    """The converted graph, in words."""
    match precision:
        case "fp32":
            return "the exported graph"
        case "fp16" | "bf16":
            return f"the graph cast to {precision.upper()}"
        case "int8" | "int8-fp16":
            return "the graph with Q/DQ pairs"
