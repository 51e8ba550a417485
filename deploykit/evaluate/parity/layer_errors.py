"""Error added by each layer: the same tensors compared in two graphs, at the boundaries that survive fusion.

A compiler fuses a layer (a product with weights) with the operators that only depend on it: its activation, a residual
sum, a scale. Tensors inside such a kernel do not exist, and requesting one as an output splits the kernel. Tensors
between kernels exist. A tensor survives fusion if it

    is an output of the graph
    is read by a layer
    is read by several nodes
    is joined with others by a sum, but is not the branch with the most layers: the kernel of that branch ends in the
    sum, and the others are computed before. Where a join is not a sum of equal shapes (a Concat), every branch survives

This depends only on the graph's structure, not on operator names.

The error of a layer is measured locally: the exported graph is split at these tensors, each piece receives the
low-precision graph's tensors as its inputs, and its output (an exact layer applied to an inexact input) is compared
with the low-precision graph's. With r a tensor of the exported graph, t of the low-precision graph and p of the piece,

    SNR    10·log₁₀(Σ r² / Σ (t − r)²)     accumulated error of all layers so far
    added  Σ (t − p)² / Σ r²               error of this layer alone

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

from deploykit.core import onnx_io
from deploykit.core.values import Arrays, LayerError, LayerRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_FLOAT = sys.float_info.max
"""Stands for infinity, which JSON cannot represent."""


class FusionBoundary(NamedTuple):
    """A tensor that survives fusion, and the layer that computes it, or the node that writes it where no layer lies
    between it and the previous boundaries.
    """

    tensor: str
    node: str


class ErrorPower(NamedTuple):
    """Sums of squares: of the exported graph's values, of the low-precision graph's error, and of the error that this
    layer alone adds.
    """

    signal: float
    noise: float
    own: float


def fusion_boundaries(graph: ir.Graph, layers: Collection[str]) -> tuple[FusionBoundary, ...]:
    """All tensors of `graph` that survive fusion, in the order of computation; `layers` are names of nodes."""
    depths = _layer_depths(graph, layers)
    surviving = [value for value in depths if value.producer() is not None and _survives_fusion(value, layers, depths)]
    boundaries = frozenset(surviving)
    return tuple(
        FusionBoundary(value.name or "", _find_layer(value, boundaries, layers).name or "") for value in surviving
    )


def _layer_depths(graph: ir.Graph, layers: Collection[str]) -> dict[ir.Value, int]:
    """The number of layers on the longest path from the graph's inputs to each tensor that depends on them."""
    constants = set(graph.initializers.values())
    depths = {value: 0 for value in graph.inputs if value not in constants}
    for node in graph:
        if inputs := _computed_inputs(node, depths):
            deepest = max(depths[value] for value in inputs) + (node.name in layers)
            depths.update(dict.fromkeys(node.outputs, deepest))
    return depths


def _computed_inputs(node: ir.Node, depths: Mapping[ir.Value, int]) -> list[ir.Value]:
    """The distinct inputs that depend on the graph's inputs."""
    return list(dict.fromkeys(value for value in node.inputs if value is not None and value in depths))


def _survives_fusion(value: ir.Value, layers: Collection[str], depths: Mapping[ir.Value, int]) -> bool:
    readers = {use.node for use in value.uses()}
    if value.is_graph_output() or len(readers) > 1:
        return True
    if not readers:
        return False
    (reader,) = readers
    if reader.name in layers:
        return True
    branches = _computed_inputs(reader, depths)
    if len(branches) == 1:
        return False
    shape = reader.outputs[0].shape
    if shape is None or any(branch.shape != shape for branch in branches):
        return True
    return value is not max(branches, key=lambda branch: depths[branch])


def _find_layer(value: ir.Value, surviving: Collection[ir.Value], layers: Collection[str]) -> ir.Node:
    """The layer in the kernel that computes the tensor: searched backwards up to the surviving tensors."""
    producer = value.producer()
    assert producer is not None
    pending = [producer]
    for node in pending:
        if node.name in layers:
            return node
        inner = (value.producer() for value in node.inputs if value is not None and value not in surviving)
        pending += [producer for producer in inner if producer is not None and producer not in pending]
    return producer


def split_at(source: Path, target: Path, tensors: Collection[str]) -> None:
    """Write `source` to `target`, split at these tensors: they become outputs, and their readers read a new graph input
    instead, named by `input_for`.
    """
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # the target does not refer to the source's external data file
    for value in [output for node in model.graph for output in node.outputs if output.name in tensors]:
        if uses := list(value.uses()):
            new_input = ir.Value(name=input_for(value.name or ""), shape=value.shape, type=value.type)
            model.graph.inputs.append(new_input)
            for use in uses:
                use.node.replace_input_with(use.idx, new_input)
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    onnx_io.save_model(model, target)


def input_for(tensor: str) -> str:
    """The name of the graph input that replaces a tensor for its readers."""
    return f"{tensor}/given"


def error_power(triples: Iterable[tuple[Arrays, Arrays, Arrays]]) -> dict[str, ErrorPower]:
    """Sums over batches, by tensor. A triple has the tensors of the exported graph, the low-precision graph and the
    split graph. NaN counts as infinite noise.
    """
    totals: dict[str, ErrorPower] = {}
    for exported, low_precision, split in triples:
        for name in exported.keys() & low_precision.keys() & split.keys():
            r, t, p = (arrays[name].astype(np.float64) for arrays in (exported, low_precision, split))
            batch = ErrorPower(float(np.square(r).sum()), _sum_of_squares(t - r), _sum_of_squares(t - p))
            total = totals.get(name, ErrorPower(0, 0, 0))
            totals[name] = ErrorPower(*(a + b for a, b in zip(total, batch, strict=True)))
    return totals


def _sum_of_squares(difference: NDArray[np.float64]) -> float:
    energy = float(np.square(difference).sum())
    return energy if math.isfinite(energy) else math.inf


def rank_layers(
    boundaries: Iterable[FusionBoundary], measured: Mapping[str, ErrorPower], rows: Mapping[str, LayerRow]
) -> tuple[LayerError, ...]:
    """The measured boundaries by the error that each layer adds, the largest first; `rows` describe the nodes."""
    errors = [
        _layer_error(boundary, measured[boundary.tensor], rows[boundary.node])
        for boundary in boundaries
        if boundary.tensor in measured
    ]
    return tuple(sorted(errors, key=lambda error: -error.added_noise))


def _layer_error(boundary: FusionBoundary, power: ErrorPower, row: LayerRow) -> LayerError:
    noise, added = _noise_ratio(power.noise, power.signal), _noise_ratio(power.own, power.signal)
    snr = None if noise == 0 else -10 * math.log10(noise)
    return LayerError(boundary.node, row.op_type, row.module, boundary.tensor, snr, added)


def _noise_ratio(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    return min(noise / signal, LARGEST_FLOAT) if signal > 0 else LARGEST_FLOAT
