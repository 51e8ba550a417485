"""Outputs that a graph or an engine computed, and its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from deploykit.core.values import Arrays, OutputKind
from deploykit.evaluate.cost import split_parts
from deploykit.evaluate.parity.metrics import Array


class GraphOutputs(NamedTuple):
    """What computed the outputs, and the outputs by name, sample axis first."""

    subject: str
    """Such as `the graph cast to FP16, as written` or `openvino 2026.4.1`."""
    outputs: Arrays


class PairedPart(NamedTuple):
    """One part of one output, by the reference and by a graph."""

    output: str
    part: str
    """Such as `boxes`; empty: the whole output."""
    reference: Array
    computed: Array


def pair_parts(oracle: Arrays, computed: Arrays, kinds: Mapping[str, OutputKind]) -> Iterator[PairedPart]:
    """Every part of every output, on the samples that `computed` holds: the first of the reference's."""
    for name, array in computed.items():
        parts = split_parts(kinds[name], array)
        for part, reference in split_parts(kinds[name], oracle[name][: len(array)]).items():
            yield PairedPart(name, part, reference, parts[part])
