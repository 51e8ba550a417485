"""The verdict on one engine, from outputs that were computed before.

    FP32                     the engine against the reference
    faithfulness             the engine against its graph as written
    precision cost           the graph as written against the reference, and against the precision's own floor

The FP32 graph is judged first, by FP32's narrow tolerance: an error of the export could hide among FP16's roundings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from deploykit.core.values import (
    Accuracy,
    Arrays,
    DataRecord,
    Faithfulness,
    Head,
    OutputKind,
    Parity,
    PartFaithfulness,
    Precision,
    PrecisionCost,
    Tolerance,
    WeightsRecord,
)
from deploykit.evaluate.cost import find_cost_caveats, resolve_kinds
from deploykit.evaluate.parity.compare import (
    PairedOutputs,
    compare_outputs,
    measure_outputs,
    require_finite,
    untrained_caveats,
)
from deploykit.evaluate.parity.faithfulness import bound_faithfulness, compare_with_graph
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.precision_cost import measure_half_precision_cost, measure_int8_cost
from deploykit.evaluate.parity.tolerances import derive_tolerance, for_fp32

HALF_PRECISIONS: Final = ("fp16", "bf16")

LARGEST_DROP: Final = 0.05
"""Top-1 drop, as a share of 1, that fails a verdict where the whole interval is above it: a network that lost more is
broken rather than imprecise. What an application affords is a budget: --max-drop.
"""


class JudgedNetwork(NamedTuple):
    """What a verdict depends on besides outputs."""

    precision: Precision
    weights: WeightsRecord
    head: Head
    oracle: str
    """The reference's name, such as `eager PyTorch`."""
    data: DataRecord
    golden: int
    """Number of golden vectors, which are the first samples."""
    kinds: Mapping[str, OutputKind] = {}
    """Kinds that the user names; those of other outputs are inferred."""


class JudgedOutputs(NamedTuple):
    """Outputs for the same samples. Those of graphs are of the first samples: computed as written they take long."""

    oracle: Arrays
    engine: GraphOutputs
    labels: tuple[int | None, ...]
    exported: GraphOutputs
    """The FP32 graph."""
    portable: GraphOutputs | None = None
    """The portable graph at its precision, as written; None: FP32, or no runtime here computes it."""
    form: GraphOutputs | None = None
    """The backend's own form of the graph, as written; None: it computes the portable one."""
    floor: Arrays | None = None
    """FP16 and BF16: an emulation that rounds every weight and activation of the FP32 graph."""

    @property
    def compiled(self) -> GraphOutputs | None:
        """The graph that the engine was compiled from."""
        return self.form or self.portable


def judge_engine(network: JudgedNetwork, outputs: JudgedOutputs, caveats: tuple[str, ...] = ()) -> Parity:
    """The verdict on one engine; `caveats` are limits that the caller knows.

    InputError where the reference computes NaN or infinity, and for a kind or an output that the user names wrongly.
    """
    for name, array in outputs.oracle.items():
        require_finite(name, array)
    caveats = (*untrained_caveats(network.weights), *caveats)
    if network.precision == "fp32":
        parity = _judge_fp32(network, outputs, caveats)
    else:
        parity = _judge_precision(network, outputs, caveats)
    failures = (*_check_exported(network, outputs), *parity.failures)
    return msgspec.structs.replace(
        parity,
        passed=not failures,
        failures=failures,
        oracle=network.oracle,
        accuracy_unknown=not network.weights.trained,
    )


def _judge_fp32(network: JudgedNetwork, outputs: JudgedOutputs, caveats: tuple[str, ...]) -> Parity:
    """An FP32 engine is compared with the reference itself, and its precision costs nothing."""
    tolerance = for_fp32(network.weights.trained)
    paired = PairedOutputs(outputs.oracle, outputs.engine.outputs, outputs.labels)
    parity = compare_outputs(paired, tolerance, network.data, network.head, caveats)
    parts = tuple(PartFaithfulness(output.name, "", output.snr_db, tolerance.min_snr_db) for output in parity.outputs)
    reason = tolerance.reasons["min_snr_db"]
    faithfulness = Faithfulness(network.oracle, parts, reason, network.data.count, parity.failures)
    return msgspec.structs.replace(parity, faithfulness=faithfulness)


def _judge_precision(network: JudgedNetwork, outputs: JudgedOutputs, caveats: tuple[str, ...]) -> Parity:
    """An engine of another precision is compared with its graph, and the graph with the reference."""
    kinds = resolve_kinds(outputs.oracle, network.head, network.kinds)
    paired = PairedOutputs(outputs.oracle, outputs.engine.outputs, outputs.labels)
    measured = measure_outputs(paired, _golden_tolerance(network, outputs), network.data, network.head, caveats)
    compiled, portable = outputs.compiled, outputs.portable
    assert compiled is not None
    assert portable is not None
    bound = bound_faithfulness(outputs.oracle, compiled.outputs, kinds)
    faithfulness = compare_with_graph(outputs.engine.outputs, compiled, kinds, bound, network.precision)
    cost = _measure_cost(network, outputs, portable, kinds)
    form_cost = None if outputs.form is None else _measure_cost(network, outputs, outputs.form, kinds)
    executed = form_cost or cost
    trained = network.weights.trained  # what an untrained network finds in samples means nothing anyway
    drop = _check_drop(measured.accuracy) if trained else []
    too_few = [caveat for output in executed.outputs for caveat in find_cost_caveats(output) if trained]
    return msgspec.structs.replace(
        measured,
        failures=(*measured.failures, *faithfulness.failures, *executed.failures, *drop),
        caveats=(*measured.caveats, *too_few),
        faithfulness=faithfulness,
        cost=cost,
        form_cost=form_cost,
    )


def _check_exported(network: JudgedNetwork, outputs: JudgedOutputs) -> list[str]:
    """Why the FP32 graph fails; at FP32 the engine computes that graph, and is judged itself."""
    if network.precision == "fp32":
        return []
    exported = outputs.exported.outputs
    count = len(next(iter(exported.values())))
    reference = {name: array[:count] for name, array in outputs.oracle.items()}
    paired = PairedOutputs(reference, exported, outputs.labels[:count])
    parity = compare_outputs(paired, for_fp32(network.weights.trained), network.data, network.head)
    return [f"the FP32 graph fails: {failure}" for failure in parity.failures]


def _measure_cost(
    network: JudgedNetwork, outputs: JudgedOutputs, graph: GraphOutputs, kinds: Mapping[str, OutputKind]
) -> PrecisionCost:
    if network.precision in HALF_PRECISIONS:
        assert outputs.floor is not None
        return measure_half_precision_cost(outputs.oracle, graph, outputs.floor, kinds, network.precision)
    return measure_int8_cost(outputs.oracle, graph, kinds, network.weights.trained)


def _check_drop(accuracy: Accuracy | None) -> list[str]:
    """Why the labelled samples show that a network is broken: its top-1 drop with the whole interval."""
    if accuracy is None or accuracy.drop_low is None or accuracy.drop_low <= LARGEST_DROP:
        return []
    assert accuracy.drop_high is not None
    interval = f"95 % interval {accuracy.drop_low:.1%} to {accuracy.drop_high:.1%}"
    return [
        f"top-1 drops by {accuracy.drop:.1%} on {accuracy.count} labelled samples ({interval}), above the bound of "
        f"{LARGEST_DROP:.0%}"
    ]


def _golden_tolerance(network: JudgedNetwork, outputs: JudgedOutputs) -> Tolerance:
    """Bounds for the golden vectors: twice the error that the coarsest of the bundle's graphs makes on them."""
    graphs = [graph.outputs for graph in (outputs.portable, outputs.form) if graph is not None]
    pairs = [
        (outputs.oracle[name][: network.golden], graph[name][: network.golden]) for graph in graphs for name in graph
    ]
    return derive_tolerance(network.precision, pairs)
