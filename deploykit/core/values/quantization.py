"""Quantization: where pairs go, what the ranges rest on, what INT8 costs and what really ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.samples import DataRecord, SampleRecord
from deploykit.core.values.words import Arithmetic, InOut, Measure, Observer, Value


class Range(Value, frozen=True):
    """The smallest and largest value that a tensor took."""

    low: float
    high: float
    threshold: float | None = None
    """Where an observer clips |x| for INT8; None: the tensor is not quantized."""


class Ranges(Value, frozen=True):
    """What calibration saw: one range per tensor, and on what."""

    tensors: Mapping[str, Range]
    data: DataRecord


class Convergence(Value, frozen=True):
    """How far the thresholds from the first `samples` were from those of all samples, as shares of these."""

    samples: int
    median: float
    worst: float
    tensor: str
    """The one that was worst."""


class Calibrated(Value, frozen=True):
    """Ranges with INT8 thresholds, and what a layer's inputs are on average: all that quantization needs to know."""

    ranges: Ranges
    observer: Observer
    convergence: tuple[Convergence, ...]
    means: Mapping[str, tuple[float, ...]]
    """Mean of each channel (axis 1) of the tensors that layers read."""


class Recipe(Value, frozen=True):
    """How a graph is quantized: what stays out, what becomes of the rest, and whether biases are corrected."""

    rest: Literal["fp32", "fp16"] = "fp32"
    excluded: tuple[str, ...] = ()
    """Nodes that stay in floating point: layers, or the Concats, Adds and MaxPools that would join in."""
    correct_bias: bool = False
    io: InOut = "fp32"


class Edge(Value, frozen=True):
    """An input of a node that is read through a Q/DQ pair, and the rule of `quantize/placement.py` that chose it."""

    tensor: str
    node: str
    position: int
    rule: str


class Placement(Value, frozen=True):
    """Where Q/DQ pairs go in one graph; names are those of its nodes and tensors."""

    layers: tuple[str, ...]
    """Nodes that will compute in INT8, in the graph's order."""
    edges: tuple[Edge, ...]
    shared: tuple[tuple[str, ...], ...]
    """Tensors whose pairs have one scale."""


class Sensitivity(Value, frozen=True):
    """What quantizing one layer, and no other, costs at the network's output."""

    layer: str
    error: float
    """Where every sample has a label, the cross-entropy that it adds, in nats; else noise over signal of the output, a
    power ratio: 10^(−SNR/10)."""


class BudgetStep(Value, frozen=True):
    """One layer taken out of INT8, and what that did."""

    layer: str
    error: float
    """Of the layer alone, as `Sensitivity` defines it."""
    before: float
    after: float
    int8_share: float
    """Of multiply-accumulates that the graph still quantizes."""


class Budget(Value, frozen=True):
    """What INT8 may cost, and the way to a graph that keeps within it."""

    measure: Measure
    bound: float
    """The largest drop in points of 100, or the smallest SNR in decibels."""
    start: float
    """With every layer quantized."""
    steps: tuple[BudgetStep, ...]
    kept: bool

    @property
    def end(self) -> float:
        """With the layers of all steps out."""
        return self.steps[-1].after if self.steps else self.start


class Disjointness(Value, frozen=True):
    """Proof that no image was both calibrated on and judged on: pixel digests of one set looked for in the other."""

    calibration_sha256: str
    evaluation_sha256: str
    compared: int
    """Digests of the evaluation samples that were looked for among the calibration samples'."""
    common: int


class CalibrationReceipt(Value, frozen=True):
    """What the INT8 ranges rest on."""

    data: DataRecord
    samples: tuple[SampleRecord, ...]
    observer: Observer
    thresholds: Mapping[str, float]
    """Where |x| is clipped, by tensor; tensors that share a scale take the largest among them."""
    convergence: tuple[Convergence, ...]
    disjoint: Disjointness
    images_per_s: float | None = None
    """Of the calibration pass, decoding included, when it was made."""


class Executed(Value, frozen=True):
    """In what arithmetic a backend really computes the layers that multiply, by the ONNX node's name."""

    evidence: str
    """What it was read from, such as `OpenVINO's execution graph`."""
    arithmetic: Mapping[str, Arithmetic]
    """Of a layer that the evidence does not tell there is no entry."""


class LayerArithmetic(Value, frozen=True):
    """One Conv, ConvTranspose, Gemm or MatMul: its multiply-accumulates for one image, and what computes them."""

    node: str
    op_type: str
    macs: int
    asked: Arithmetic
    """What the graph's types say."""
    ran: Arithmetic | None
    """None: the backend's account does not tell."""


MISSED_AT_MOST = 0.05
"""Share of the multiply-accumulates that a graph quantizes which a backend may still compute in floating point."""


class PrecisionReceipt(Value, frozen=True):
    """What really ran: the share of multiply-accumulates at each arithmetic, from the backend's own account."""

    backend: str
    version: str
    evidence: str
    shares: Mapping[Arithmetic, float]
    """Of all multiply-accumulates, as shares of 1; what is missing to 1 is untold."""
    layers: tuple[LayerArithmetic, ...]

    @property
    def missed(self) -> tuple[LayerArithmetic, ...]:
        """Layers that the graph quantizes and the backend computes in floating point all the same."""
        return tuple(layer for layer in self.layers if layer.asked == "int8" and layer.ran not in ("int8", None))

    @property
    def untold(self) -> tuple[LayerArithmetic, ...]:
        """Layers of whose arithmetic the backend gives no account."""
        return tuple(layer for layer in self.layers if layer.ran is None)

    @property
    def failures(self) -> tuple[str, ...]:
        """INT8 that was asked for and not computed, as a sentence, where it is more than a twentieth. What is untold
        counts as not computed.
        """
        missed = self.missed
        silent = [layer for layer in self.untold if layer.asked == "int8"]
        asked = sum(layer.macs for layer in self.layers if layer.asked == "int8")
        if sum(layer.macs for layer in (*missed, *silent)) <= MISSED_AT_MOST * asked:
            return ()
        if not missed:
            return (
                f"{len(silent)} of {len(self.layers)} layers are INT8 in the graph, and {self.evidence} does not tell "
                f"what computes them (such as {silent[0].node}): choose another --target, or report it with the graph",
            )
        first = missed[0]
        assert first.ran is not None
        return (
            f"{len(missed)} of {len(self.layers)} layers are INT8 in the graph and {first.ran.upper()} in "
            f"{self.backend} (such as {first.node}): choose another --target",
        )
