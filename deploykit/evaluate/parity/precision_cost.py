"""Question 2 of a verdict: what did the precision cost this network?

The graph as written, every rounding done, is compared with the FP32 reference: part by part by its SNR, and in the
terms of each output's kind. FP16 and BF16 are judged by the precision's own floor, INT8 by what its kind of output
affords.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deploykit.core.values import Arrays, OutputCost, OutputKind, PartCost, Precision, PrecisionCost
from deploykit.evaluate.cost import judge_cost, measure_cost, split_parts
from deploykit.evaluate.parity import metrics
from deploykit.evaluate.parity.graph_outputs import GraphOutputs, pair_parts
from deploykit.evaluate.parity.negligible import is_negligible

FLOOR_MARGIN_DB: Final = 6.0
"""SNR that a graph may lose against the floor: twice its error."""

ENOUGH_DB: Final[Mapping[Precision, float]] = {"fp16": 60.0, "bf16": 42.0}
"""An SNR that passes whatever the floor: about that of two roundings to the type."""

FLOOR_REASON: Final = (
    "rounding every weight and activation of the FP32 graph to {precision} costs this network the floor; twice that "
    "error is allowed, since the graph may round at other places"
)

INT8_LEAST_DB: Final = 10.0
"""Smallest SNR of an untrained network at INT8: an error of a third of the signal."""

INT8_REASON: Final = (
    "an error of a third of the signal, beyond which a comparison is meaningless; what a network can afford is "
    "measured by its accuracy: --max-drop"
)


def measure_half_precision_cost(
    oracle: Arrays, written: GraphOutputs, floor: Arrays, kinds: Mapping[str, OutputKind], precision: Precision
) -> PrecisionCost:
    """The cost of FP16 or BF16, judged by its floor: outputs of an emulation that rounds the FP32 graph."""
    parts = []
    for name, part, reference, rounded in pair_parts(oracle, written.outputs, kinds):
        floor_db = metrics.bounded_snr_db(reference, split_parts(kinds[name], floor[name])[part])
        least: float | None = ENOUGH_DB[precision]
        if is_negligible(reference, rounded, precision):
            least = None
        elif floor_db is not None:
            least = min(floor_db - FLOOR_MARGIN_DB, ENOUGH_DB[precision])
        parts.append(PartCost(name, part, metrics.bounded_snr_db(reference, rounded), floor_db, least))
    outputs = _measure_outputs(oracle, written.outputs, kinds)
    reason = FLOOR_REASON.format(precision=precision.upper())
    return _compose_cost(written, parts, outputs, reason)


def measure_int8_cost(
    oracle: Arrays, written: GraphOutputs, kinds: Mapping[str, OutputKind], trained: bool
) -> PrecisionCost:
    """The cost of INT8. Of a trained network each output is judged in the terms of its kind; of an untrained one, whose
    outputs mean nothing, only that the error stays below a third of the signal.
    """
    parts = [
        PartCost(
            name,
            part,
            metrics.bounded_snr_db(reference, rounded),
            None,
            None if trained or is_negligible(reference, rounded, "int8") else INT8_LEAST_DB,
        )
        for name, part, reference, rounded in pair_parts(oracle, written.outputs, kinds)
    ]
    outputs = _measure_outputs(oracle, written.outputs, kinds)
    judged = tuple(map(judge_cost, outputs)) if trained else outputs
    return _compose_cost(written, parts, judged, "" if trained else INT8_REASON)


def _measure_outputs(oracle: Arrays, written: Arrays, kinds: Mapping[str, OutputKind]) -> tuple[OutputCost, ...]:
    return tuple(measure_cost(name, kinds[name], oracle[name][: len(array)], array) for name, array in written.items())


def _compose_cost(
    written: GraphOutputs, parts: list[PartCost], outputs: tuple[OutputCost, ...], reason: str
) -> PrecisionCost:
    count = len(next(iter(written.outputs.values())))
    failures = [failure for part in parts for failure in _describe_failure(part, written.subject)]
    failures += [failure for output in outputs for failure in output.violations]
    return PrecisionCost(written.subject, tuple(parts), outputs, reason, count, tuple(failures))


def _describe_failure(part: PartCost, subject: str) -> list[str]:
    if part.min_snr_db is None or part.snr_db is None or part.snr_db >= part.min_snr_db:
        return []
    place = f"output {part.output!r}" + (f", {part.part}" if part.part else "")
    floor = "" if part.floor_db is None else f"; the precision's own floor is {part.floor_db:.1f} dB"
    return [
        f"{place}: the SNR of {subject} is {part.snr_db:.1f} dB, below the bound of {part.min_snr_db:.1f} dB{floor}"
    ]
