"""Quantization: ranges, placement of Q/DQ pairs, accuracy budget, calibration receipt and executed precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.base import Arithmetic, BudgetMetric, IoType, Observer, Value
from deploykit.core.values.samples import DataRecord, SampleRecord


class Range(Value, frozen=True):
    """Smallest and largest value observed in a tensor."""

    low: float
    high: float
    threshold: float | None = None
    """Threshold at which |x| is clipped for INT8; None: the tensor is not quantized."""


class Ranges(Value, frozen=True):
    """Observed range per tensor, and the samples they were observed on."""

    tensors: Mapping[str, Range]
    data: DataRecord | None
    """None: they are those of a file's Q/DQ pairs."""


class FileRange(Value, frozen=True):
    """Range of a tensor as a Q/DQ pair of an ONNX file states it."""

    low: float
    high: float
    """The smallest and the largest value that the pair's codes stand for."""
    step: float
    """Distance of neighbouring codes: the pair's scale."""
    threshold: float
    """Magnitude at which |x| is clipped, as deploykit quantizes: symmetric, with 127 steps on either side of zero."""

    @property
    def is_coarser(self) -> bool:
        """Whether a step of 1/127 of the threshold is larger than the file's, as for all codes on one side of zero."""
        return self.threshold / 127 > self.step * (1 + 1e-6)


class FileRanges(Value, frozen=True):
    """Ranges that an ONNX file holds as Q/DQ pairs, by tensor of the exported graph."""

    pairs: int
    tensors: Mapping[str, FileRange]


class FileRangesReceipt(Value, frozen=True):
    """The INT8 ranges of a graph that were taken from a file's Q/DQ pairs, where no calibration was run."""

    pairs: int
    """Number of Q/DQ pairs in the file, those of weights included where it stores weights in FP32."""
    thresholds: Mapping[str, float]
    """Clipping threshold of |x| by tensor; tensors that share a scale use their largest threshold."""
    coarser: tuple[str, ...]
    """Tensors whose steps are larger than in the file, since its codes are not symmetric around zero."""
    inferred: Mapping[str, str]
    """Tensors without a pair in the file, and the tensor with the same values whose range they take."""
    without_range: tuple[str, ...]
    """Nodes that stay in floating point, since the file has no range for what they read."""


class Convergence(Value, frozen=True):
    """Relative difference between the thresholds after the first `samples` and the final ones, as shares of 1."""

    samples: int
    median: float
    worst: float
    tensor: str
    """The tensor with the largest difference."""


class CalibrationResult(Value, frozen=True):
    """Result of calibration: ranges with INT8 thresholds, and channel means for bias correction."""

    ranges: Ranges
    observer: Observer | None
    """None: the thresholds are those of a file's Q/DQ pairs."""
    convergence: tuple[Convergence, ...]
    means: Mapping[str, tuple[float, ...]]
    """Mean per channel (axis 1) of each layer's input tensor."""


class Recipe(Value, frozen=True):
    """How a graph is quantized: excluded nodes, precision of the remaining layers, and bias correction."""

    rest: Literal["fp32", "fp16"] = "fp32"
    excluded: tuple[str, ...] = ()
    """Nodes that stay in floating point: layers, or Concat, Add and MaxPool nodes that would be quantized with them."""
    correct_bias: bool = False
    io: IoType = "fp32"


class Edge(Value, frozen=True):
    """A node input with a Q/DQ pair, and the rule of `quantize/placement.py` that chose it."""

    tensor: str
    node: str
    position: int
    rule: str


class Placement(Value, frozen=True):
    """Placement of Q/DQ pairs in one graph, by names of nodes and tensors."""

    layers: tuple[str, ...]
    """Nodes that compute in INT8, in the graph's order."""
    edges: tuple[Edge, ...]
    shared: tuple[tuple[str, ...], ...]
    """Groups of tensors whose Q/DQ pairs share one scale."""


class Sensitivity(Value, frozen=True):
    """Error at the network's output if only one layer is quantized."""

    layer: str
    error: float
    """With labels, the increase of the cross-entropy in nats; without, noise power over signal power of the output:
    10^(−SNR/10)."""


class BudgetStep(Value, frozen=True):
    """One layer moved from INT8 to floating point, and the effect on the budget's metric."""

    layer: str
    error: float
    """Error of quantizing this layer alone, as defined by `Sensitivity`."""
    before: float
    after: float
    int8_share: float
    """Share of multiply-accumulates that are still quantized."""


class Budget(Value, frozen=True):
    """An accuracy budget, and the steps by which the graph was made to meet it."""

    metric: BudgetMetric
    limit: float
    """Largest drop of top-1 in percentage points, or smallest output SNR in decibels."""
    start: float
    """Value of the metric with every layer quantized."""
    steps: tuple[BudgetStep, ...]
    met: bool
    """Whether the final graph is within the limit."""

    @property
    def end(self) -> float:
        """Value of the metric after the last step."""
        return self.steps[-1].after if self.steps else self.start


class Disjointness(Value, frozen=True):
    """Proof that calibration and evaluation sets are disjoint, by comparing pixel digests."""

    calibration_sha256: str
    evaluation_sha256: str
    compared: int
    """Number of evaluation samples whose digests were compared with those of the calibration samples."""
    common: int


class CalibrationReceipt(Value, frozen=True):
    """Calibration data and thresholds behind the INT8 ranges."""

    data: DataRecord
    samples: tuple[SampleRecord, ...]
    observer: Observer
    thresholds: Mapping[str, float]
    """Clipping threshold of |x| by tensor; tensors that share a scale use their largest threshold."""
    convergence: tuple[Convergence, ...]
    disjoint: Disjointness
    images_per_s: float | None = None
    """Throughput of the calibration pass, including decoding."""


class ExecutedPrecision(Value, frozen=True):
    """Arithmetic type in which a backend computes each multiplying layer, by the ONNX node's name."""

    evidence: str
    """Source of the information, such as `OpenVINO's execution graph`."""
    arithmetic: Mapping[str, Arithmetic]
    """Layers that the evidence does not mention have no entry."""


class LayerArithmetic(Value, frozen=True):
    """One product, such as a Conv or MatMul: its multiply-accumulates (MACs) per image, and their arithmetic type."""

    node: str
    op_type: str
    macs: int
    requested: Arithmetic
    """Arithmetic type given by the graph's data types."""
    executed: Arithmetic | None
    """Arithmetic type that the backend executes; None: not reported."""
    module: str = ""
    """Dotted path of the PyTorch module that issued it; empty for the outermost one, and where it is not known."""
    time_ms: float | None = None
    """Time of its kernel in one call at batch 1, or at TensorRT's optimal batch; None: not measured, as for all but
    those that an INT8 graph leaves in floating point."""

    @property
    def title(self) -> str:
        """What a reader finds it by: the module's path, or the node's name."""
        return self.module or self.node


class UncountedProduct(Value, frozen=True):
    """A product whose multiply-accumulates are not known, so that no share includes it."""

    node: str
    op_type: str
    reason: str
    """Why it is not counted, as a clause."""
    module: str = ""
    """Dotted path of the PyTorch module that issued it; empty for the outermost one, and where it is not known."""

    @property
    def title(self) -> str:
        """What a reader finds it by: the module's path, or the node's name."""
        return self.module or self.node


SMALL_INT8_SHARE = 0.8
"""Share of the multiply-accumulates below which an INT8 graph is said to be INT8 only in part. Attention is a tenth to
a fifth of a vision transformer's, and stays in floating point.
"""

MAX_INT8_FALLBACK_SHARE = 0.05
"""Largest share of the graph's INT8 multiply-accumulates that a backend may execute in floating point."""


class PrecisionReceipt(Value, frozen=True):
    """Precision receipt: the share of multiply-accumulates executed in each arithmetic type, as the backend reports."""

    backend: str
    version: str
    evidence: str
    shares: Mapping[Arithmetic, float]
    """Shares of all counted multiply-accumulates, of 1; the remainder to 1 is not reported."""
    layers: tuple[LayerArithmetic, ...]
    """Every product that can be counted, in the graph's order."""
    uncounted: tuple[UncountedProduct, ...] = ()
    """Every other product: of dynamic sizes, or inside the branches of an If or the body of a Loop."""

    @property
    def requested_shares(self) -> Mapping[Arithmetic, float]:
        """Shares of all counted multiply-accumulates by the arithmetic type that the graph requests, of 1."""
        total = sum(layer.macs for layer in self.layers)
        types = dict.fromkeys(layer.requested for layer in self.layers)
        return {kind: sum(layer.macs for layer in self.layers if layer.requested == kind) / total for kind in types}

    @property
    def left_floating(self) -> tuple[LayerArithmetic, ...]:
        """In a graph with INT8 layers, those that are not executed in INT8, by their multiply-accumulates."""
        if not any(layer.requested == "int8" for layer in self.layers):
            return ()
        floating = [layer for layer in self.layers if (layer.executed or layer.requested) != "int8"]
        return tuple(sorted(floating, key=lambda layer: -layer.macs))

    @property
    def int8_shortfall(self) -> str | None:
        """That the graph asks for INT8 in less than SMALL_INT8_SHARE of the multiply-accumulates, as a sentence without
        its full stop; None where it asks for more, or for none.
        """
        share = self.requested_shares.get("int8", 0.0)
        if not 0 < share < SMALL_INT8_SHARE:
            return None
        names = list(dict.fromkeys(layer.title for layer in self.left_floating if layer.requested != "int8"))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return (
            f"only {100 * share:.1f} % of the network is INT8 by MACs; in floating point: {', '.join(names[:3])}{more}"
        )

    @property
    def int8_fallbacks(self) -> tuple[LayerArithmetic, ...]:
        """Layers that are INT8 in the graph and executed in floating point."""
        return tuple(
            layer for layer in self.layers if layer.requested == "int8" and layer.executed not in ("int8", None)
        )

    @property
    def unreported(self) -> tuple[LayerArithmetic, ...]:
        """Layers whose executed arithmetic type the backend does not report."""
        return tuple(layer for layer in self.layers if layer.executed is None)

    @property
    def failures(self) -> tuple[str, ...]:
        """More INT8 not executed as INT8 than MAX_INT8_FALLBACK_SHARE allows, as a sentence. INT8 layers without a
        report count as not executed.
        """
        fallbacks = self.int8_fallbacks
        silent = [layer for layer in self.unreported if layer.requested == "int8"]
        int8_macs = sum(layer.macs for layer in self.layers if layer.requested == "int8")
        if sum(layer.macs for layer in (*fallbacks, *silent)) <= MAX_INT8_FALLBACK_SHARE * int8_macs:
            return ()
        if not fallbacks:
            return (
                f"{len(silent)} of {len(self.layers)} layers are INT8 in the graph, and {self.backend}'s "
                f"{self.evidence} does not show what computes them (such as {silent[0].node}): choose another "
                "--target, or report it with the graph",
            )
        first = fallbacks[0]
        assert first.executed is not None
        return (
            f"{len(fallbacks)} of {len(self.layers)} layers are INT8 in the graph and {first.executed.upper()} in "
            f"{self.backend} (such as {first.node}): choose another --target",
        )
