"""Question 1 of a verdict: does an engine compute its graph?

The engine's outputs are compared with those of its graph computed as written: node by node, without fusion, every
rounding done. What an engine may differ by is the order of accumulation and where it rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from deploykit.core.values import Arrays, Faithfulness, OutputKind, PartFaithfulness, Precision
from deploykit.evaluate.cost import split_parts
from deploykit.evaluate.parity import metrics
from deploykit.evaluate.parity.graph_outputs import GraphOutputs, pair_parts
from deploykit.evaluate.parity.negligible import is_negligible

ROUNDING_MARGIN_DB: Final = 6.0
"""SNR that an engine may lose against its graph's own rounding error: twice that error."""

LARGEST_DB: Final = 60.0
"""A bound is never above this: where rounding is all but exact, a single code that falls on the other side is more."""

ROUNDING_REASON: Final = (
    "it may round elsewhere than the graph, or nowhere, and a sum near the middle between two steps may fall on either "
    "side: each such step moves the sums behind it, so that two right computations drift apart as far as rounding "
    "itself moves the outputs. Twice that is allowed"
)


class FaithfulnessBound(NamedTuple):
    """The smallest SNR by output and part, and its reason."""

    min_snr_db: Mapping[tuple[str, str], float]
    reason: str


def compare_with_graph(
    engine: Arrays,
    written: GraphOutputs,
    kinds: Mapping[str, OutputKind],
    bound: FaithfulnessBound,
    precision: Precision,
) -> Faithfulness:
    """Compare an engine's outputs with those of its graph, part by part, on the samples that both have."""
    count = len(next(iter(written.outputs.values())))
    parts, failures = [], []
    for name, expected in written.outputs.items():
        if name not in engine or engine[name].shape[1:] != expected.shape[1:]:
            continue  # the interface is compared elsewhere
        computed = split_parts(kinds[name], engine[name][:count])
        for part, reference in split_parts(kinds[name], expected).items():
            least_db = None if is_negligible(reference, computed[part], precision) else bound.min_snr_db[name, part]
            row = PartFaithfulness(name, part, metrics.bounded_snr_db(reference, computed[part]), least_db)
            parts.append(row)
            failures += _describe_failure(row, written.subject)
    return Faithfulness(written.subject, tuple(parts), bound.reason, count, tuple(failures))


def bound_faithfulness(oracle: Arrays, written: Arrays, kinds: Mapping[str, OutputKind]) -> FaithfulnessBound:
    """How near an engine must be to its graph: from the error that the graph's own roundings make.

    `oracle` and `written` hold the same samples.
    """
    bounds = {}
    for name, part, reference, rounded in pair_parts(oracle, written, kinds):
        snr_db = metrics.bounded_snr_db(reference, rounded)
        bounds[name, part] = LARGEST_DB if snr_db is None else min(snr_db - ROUNDING_MARGIN_DB, LARGEST_DB)
    return FaithfulnessBound(bounds, ROUNDING_REASON)


def _describe_failure(row: PartFaithfulness, subject: str) -> list[str]:
    if row.min_snr_db is None or row.snr_db is None or row.snr_db >= row.min_snr_db:
        return []
    place = f"output {row.output!r}" + (f", {row.part}" if row.part else "")
    return [
        f"{place}: the engine does not compute its graph: it differs from {subject}, by an SNR of "
        f"{row.snr_db:.1f} dB, below the bound of {row.min_snr_db:.0f} dB"
    ]
