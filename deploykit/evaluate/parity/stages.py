"""At which stage did the error enter? Each stage's answers beside those of the stage before, and beside PyTorch's.

What goes wrong at one stage is carried on by all that follow: beside eager PyTorch they all look guilty. Beside the
stage before, only the one that did it does, and it is judged by the bounds of its own precision: a wrong transpose
cannot hide among the roundings of INT8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deploykit.core.values import Arrays, DataRecord, Head, Parity, Precision, Stage, StageParity, Stages, Tolerance
from deploykit.evaluate.parity.compare import Observed, judged

JUDGED_AT_EXPORT = (
    "an export judges typing and engine together, and neither preprocessing nor C++: deploykit parity BUNDLE --stages "
    "tells all of them apart"
)


class Looked(NamedTuple):
    """A stage, and the bounds that it breaks together with all before it."""

    parity: StageParity
    together: tuple[str, ...] = ()


class Walk:
    """The stages in their order, one after the other, on the same samples.

    `truth` holds eager PyTorch's answers by output, sample axis first; `whole` is what all stages together must keep.
    """

    def __init__(self, truth: Arrays, data: DataRecord, head: Head, whole: Tolerance) -> None:
        self.before = truth
        """Answers of the last stage that could be looked at."""
        self._truth = truth
        self._data = data
        self._head = head
        self._whole = whole
        self._looked: list[Looked] = []

    def add(self, stage: Stage, subject: str, tolerance: Tolerance, answers: Arrays, behind: Arrays) -> None:
        """A stage's answers, judged beside those of the stage that it stands behind."""
        if not all(np.isfinite(array).all() for array in behind.values()):
            nothing = "the stage before gives NaN or infinity, and nothing can be compared with that"
            self.skip(stage, subject, tolerance, nothing)
            return
        own, whole = self._judged(behind, answers, tolerance), self._judged(self._truth, answers, self._whole)
        found = StageParity(stage, subject, whole.outputs, own.outputs, tolerance, own.failures)
        self._looked.append(Looked(found, whole.failures))

    def fail(self, stage: Stage, subject: str, tolerance: Tolerance, failure: str) -> None:
        """A stage that gives no answers, which is its own fault."""
        self._looked.append(Looked(StageParity(stage, subject, (), (), tolerance, (failure,))))

    def skip(self, stage: Stage, subject: str, tolerance: Tolerance, reason: str) -> None:
        """A stage that cannot be looked at here."""
        self._looked.append(Looked(StageParity(stage, subject, (), (), tolerance, (), reason)))

    def account(self, statements: tuple[str, ...]) -> Stages:
        """All of them. `statements` are what the caller knows that the figures do not cover."""
        of_all = self._judged(self._truth, self._truth, self._whole)
        found = Stages(tuple(looked.parity for looked in self._looked), self._data, (*statements, *of_all.statements))
        if found.guilty is not None:
            return found
        together = (f"{each.parity.subject}: {failure}" for each in self._looked for failure in each.together)
        return Stages(found.stages, found.data, found.statements, tuple(together))

    def _judged(self, reference: Arrays, candidate: Arrays, tolerance: Tolerance) -> Parity:
        unlabelled = (None,) * self._data.count
        return judged(Observed(reference, candidate, unlabelled), tolerance, self._data, self._head)


def at_export(exported: Parity, typed: Parity, precision: Precision, engine: str) -> Stages:
    """What an export knows by itself: the verdict on the FP32 graph, and that on the typed one in its `engine`, both
    beside eager PyTorch.

    What typing and engine each did on their own was not measured; they are guilty together where the FP32 graph is not.
    """
    first = StageParity(
        "export", f"the FP32 graph in {engine}", exported.outputs, exported.outputs, exported.tolerance,
        exported.failures,
    )  # fmt: skip
    if precision == "fp32":
        return Stages((first,), exported.data, (JUDGED_AT_EXPORT,))
    second = StageParity(
        "engine", f"{graph_name(precision)} in {engine}", typed.outputs, (), typed.tolerance, typed.failures
    )
    return Stages((first, second), typed.data, (JUDGED_AT_EXPORT,))


def graph_name(precision: Precision) -> str:
    """What typing made of the graph."""
    match precision:
        case "fp32":
            return "the graph as it was exported"
        case "fp16" | "bf16":
            return f"the graph cast to {precision.upper()}"
        case "int8" | "int8-fp16":
            return "the graph with Q/DQ pairs"
