"""Which layer adds how much error? The same tensors in two graphs, at the places that stay when a compiler fuses.

A compiler makes one kernel of a layer (a product with weights) and of what follows it alone: its activation, a
residual sum, a scale. Tensors within such a kernel never exist, and asking for one breaks the kernel in two. Those
between kernels do. A tensor survives that

    is an output of the graph
    is read by a layer
    is read by several nodes
    is joined with others by a sum, but is not the branch with most layers: a kernel ends in the sum for one branch
    only, and the others are there already. Where a join is no sum of equals (a Concat), every branch survives

which follows from who reads whom, whatever the operators are called.

What a layer adds is measured where it happens: the exported graph is cut into pieces at these tensors, each piece is
given what the typed graph has there, and its answer, which is what a perfect layer makes of an imperfect input, is
set beside the typed graph's. With r a tensor of the exported graph, t that of the typed one and p the piece's,

    SNR    10·log₁₀(Σ r² / Σ (t − r)²)     all errors so far together
    added  Σ (t − p)² / Σ r²               this layer's own

over all samples and elements.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx_ir as ir

from deploykit.core.values import Arrays, LayerError, LayerRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = sys.float_info.max
"""In the place of infinity, which JSON cannot write."""


class Point(NamedTuple):
    """A tensor that survives fusion, and the layer that it stands behind, or the node that writes it where no layer
    lies in between.
    """

    tensor: str
    node: str


class Power(NamedTuple):
    """Sums of squares of a tensor: of the exported graph's values, of what the typed one's are off by, and of what its
    layer alone is off by.
    """

    signal: float
    noise: float
    own: float


def points(graph: ir.Graph, layers: Collection[str]) -> tuple[Point, ...]:
    """Every tensor of `graph` that survives, in the order of computation; `layers` are names of nodes."""
    depths = _depths(graph, layers)
    surviving = [value for value in depths if value.producer() is not None and _survives(value, layers, depths)]
    known = frozenset(surviving)
    return tuple(Point(value.name or "", _layer(value, known, layers).name or "") for value in surviving)


def _depths(graph: ir.Graph, layers: Collection[str]) -> dict[ir.Value, int]:
    """Layers on the longest way from the graph's inputs to each tensor that depends on them."""
    constants = set(graph.initializers.values())
    depths = {value: 0 for value in graph.inputs if value not in constants}
    for node in graph:
        if moving := _moving(node, depths):
            deepest = max(depths[value] for value in moving) + (node.name in layers)
            depths.update(dict.fromkeys(node.outputs, deepest))
    return depths


def _moving(node: ir.Node, depths: Mapping[ir.Value, int]) -> list[ir.Value]:
    """Inputs that depend on the graph's, each once."""
    return list(dict.fromkeys(value for value in node.inputs if value is not None and value in depths))


def _survives(value: ir.Value, layers: Collection[str], depths: Mapping[ir.Value, int]) -> bool:
    readers = {use.node for use in value.uses()}
    if value.is_graph_output() or len(readers) > 1:
        return True
    if not readers:
        return False
    (reader,) = readers
    if reader.name in layers:
        return True
    branches = _moving(reader, depths)
    if len(branches) == 1:
        return False
    shape = reader.outputs[0].shape
    if shape is None or any(branch.shape != shape for branch in branches):
        return True
    return value is not max(branches, key=lambda branch: depths[branch])


def _layer(value: ir.Value, surviving: Collection[ir.Value], layers: Collection[str]) -> ir.Node:
    """Back from the tensor to those that survive: what lies in between is one kernel."""
    producer = value.producer()
    assert producer is not None
    pending = [producer]
    for node in pending:
        if node.name in layers:
            return node
        inner = (each.producer() for each in node.inputs if each is not None and each not in surviving)
        pending += [each for each in inner if each is not None and each not in pending]
    return producer


def cut(source: Path, target: Path, tensors: Collection[str]) -> None:
    """Write `source` to `target` in pieces: whoever reads one of these tensors reads an input of its own instead,
    called as `given` says, and the tensors become outputs.
    """
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file beside the source stays there
    for value in [output for node in model.graph for output in node.outputs if output.name in tensors]:
        if uses := list(value.uses()):
            twin = ir.Value(name=given(value.name or ""), shape=value.shape, type=value.type)
            model.graph.inputs.append(twin)
            for use in uses:
                use.node.replace_input_with(use.idx, twin)
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    ir.save(model, target)


def given(tensor: str) -> str:
    """The input by which a tensor is given to the piece behind it."""
    return f"{tensor}/given"


def powers(triples: Iterable[tuple[Arrays, Arrays, Arrays]]) -> dict[str, Power]:
    """Sums over batches of every tensor that the exported graph, the typed one and the pieces have, in this order. What
    is no number is infinite noise.
    """
    found: dict[str, Power] = {}
    for exported, typed, pieces in triples:
        for name in exported.keys() & typed.keys() & pieces.keys():
            r, t, p = (side[name].astype(np.float64) for side in (exported, typed, pieces))
            now = Power(float(np.square(r).sum()), _energy(t - r), _energy(t - p))
            before = found.get(name, Power(0, 0, 0))
            found[name] = Power(*(a + b for a, b in zip(before, now, strict=True)))
    return found


def _energy(difference: NDArray[np.float64]) -> float:
    energy = float(np.square(difference).sum())
    return energy if math.isfinite(energy) else math.inf


def ranked(
    where: Iterable[Point], measured: Mapping[str, Power], rows: Mapping[str, LayerRow]
) -> tuple[LayerError, ...]:
    """The points that were measured, by how much each adds, the most first; `rows` say what the nodes are."""
    found = [_error(point, measured[point.tensor], rows[point.node]) for point in where if point.tensor in measured]
    return tuple(sorted(found, key=lambda error: -error.added))


def _error(point: Point, power: Power, row: LayerRow) -> LayerError:
    noise, added = _ratio(power.noise, power.signal), _ratio(power.own, power.signal)
    snr = None if noise == 0 else -10 * math.log10(noise)
    return LayerError(point.node, row.op_type, row.module, point.tensor, snr, added)


def _ratio(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    return min(noise / signal, LARGEST) if signal > 0 else LARGEST
