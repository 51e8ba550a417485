"""Question 1 of a verdict: does an engine compute its graph?

The engine's outputs are compared with those of its graph computed as written: node by node, without fusion, every
rounding done. What an engine may differ by is the order of accumulation and where it rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from deploykit.core.values import Arrays, Faithfulness, OutputKind, PartFaithfulness, Precision, PrecisionReceipt
from deploykit.evaluate.cost import split_parts
from deploykit.evaluate.parity import metrics
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.tolerances import FP32

INT8_DB: Final = 30.0
"""Smallest SNR of an engine that computes a Q/DQ graph in integers."""

INT8_REASON: Final = (
    "the integers are the graph's: a code differs, by one step, where a sum lies within float32's rounding of the "
    "middle between two steps"
)

ROUNDING_MARGIN_DB: Final = 6.0
"""SNR that an engine which rounds elsewhere may lose against the graph's own rounding error: twice that error."""


class FaithfulnessBound(NamedTuple):
    """The smallest SNR by output and part, and its reason."""

    min_snr_db: Mapping[tuple[str, str], float]
    reason: str


def compare_with_graph(
    engine: Arrays, written: GraphOutputs, kinds: Mapping[str, OutputKind], bound: FaithfulnessBound
) -> Faithfulness:
    """Compare an engine's outputs with those of its graph, part by part, on the samples that both have."""
    count = len(next(iter(written.outputs.values())))
    parts, failures = [], []
    for name, expected in written.outputs.items():
        if name not in engine or engine[name].shape[1:] != expected.shape[1:]:
            continue  # the interface is compared elsewhere
        computed = split_parts(kinds[name], engine[name][:count])
        for part, reference in split_parts(kinds[name], expected).items():
            row = PartFaithfulness(
                name, part, metrics.bounded_snr_db(reference, computed[part]), bound.min_snr_db[name, part]
            )
            parts.append(row)
            failures += _describe_failure(row, written.subject)
    return Faithfulness(written.subject, tuple(parts), bound.reason, count, tuple(failures))


def bound_faithfulness(
    oracle: Arrays,
    written: Arrays,
    kinds: Mapping[str, OutputKind],
    precision: Precision,
    receipt: PrecisionReceipt | None,
) -> FaithfulnessBound:
    """How near an engine must be to its graph, from the precision that it executes.

    `oracle` and `written` hold the same samples. An engine that computes FP16 nodes in FP32 is compared with a graph
    that rounds no activation either, and must agree as FP32 does.
    """
    if precision in ("int8", "int8-fp16"):
        return FaithfulnessBound(_same_for_all(written, kinds, INT8_DB), INT8_REASON)
    if not rounds_activations(precision, receipt):
        reason = f"it computes in FP32, as the graph is computed here: {FP32.reasons['min_snr_db']}"
        return FaithfulnessBound(_same_for_all(written, kinds, FP32.min_snr_db), reason)
    bounds = {}
    for name, array in written.items():
        rounded = split_parts(kinds[name], array)
        for part, reference in split_parts(kinds[name], oracle[name][: len(array)]).items():
            snr_db = metrics.bounded_snr_db(reference, rounded[part])
            bounds[name, part] = min(
                FP32.min_snr_db, (FP32.min_snr_db if snr_db is None else snr_db) - ROUNDING_MARGIN_DB
            )
    return FaithfulnessBound(
        bounds,
        f"it may round elsewhere than the graph, or nowhere: twice the error of all roundings of {precision.upper()}",
    )


def rounds_activations(precision: Precision, receipt: PrecisionReceipt | None) -> bool:
    """Whether an engine of an FP16 or BF16 graph rounds its activations: where it executes a layer in 16 bits, or does
    not say what it executes.
    """
    if precision not in ("fp16", "bf16"):
        return False
    return (
        receipt is None or not receipt.layers or any(share for name, share in receipt.shares.items() if name != "fp32")
    )


def _same_for_all(written: Arrays, kinds: Mapping[str, OutputKind], min_snr_db: float) -> dict[tuple[str, str], float]:
    return {(name, part): min_snr_db for name, array in written.items() for part in split_parts(kinds[name], array)}


def _describe_failure(row: PartFaithfulness, subject: str) -> list[str]:
    if row.snr_db is None or row.snr_db >= row.min_snr_db:
        return []
    place = f"output {row.output!r}" + (f", {row.part}" if row.part else "")
    return [
        f"{place}: the engine does not compute its graph: it differs from {subject}, by an SNR of "
        f"{row.snr_db:.1f} dB, below the bound of {row.min_snr_db:.0f} dB"
    ]
