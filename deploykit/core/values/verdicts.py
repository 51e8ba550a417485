"""Verdicts: compared outputs, tolerances, accuracy and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.base import Precision, Value
from deploykit.core.values.costs import OutputCost
from deploykit.core.values.quantization import PrecisionReceipt
from deploykit.core.values.samples import DataRecord


class Tolerance(Value, frozen=True):
    """Bounds that a candidate must satisfy, each with its reason; None: not checked."""

    name: str
    max_relative: float | None
    min_cosine: float | None
    min_snr_db: float
    min_top1_agreement: float | None
    reasons: Mapping[str, str]


class OutputParity(Value, frozen=True):
    """One output of the candidate compared with the reference, over all samples."""

    name: str
    max_abs: float
    mean_abs: float
    max_relative: float
    """max |Δ| over the largest magnitude of the reference: 1e-3 is a thousandth of full scale."""
    cosine: float | None
    """Cosine similarity of the worst sample; None: a sample has fewer than 8 elements, which says nothing."""
    snr_db: float | None
    """10·log10(Σ reference² / Σ Δ²); None: the outputs are identical."""
    kl: float | None
    """Mean KL(reference ‖ candidate) of the class distributions, in nats; None: the output is not class scores."""
    top1_agreement: float | None
    top5_overlap: float | None


class Accuracy(Value, frozen=True):
    """Top-1 accuracy of reference and candidate on labelled samples, as shares of 1."""

    reference: float
    candidate: float
    count: int
    drop_low: float | None = None
    """Lower end of the drop's 95 % interval for paired samples; None: not computed."""
    drop_high: float | None = None

    @property
    def drop(self) -> float:
        """Top-1 drop of the candidate, as a share of 1."""
        return self.reference - self.candidate


class PartFaithfulness(Value, frozen=True):
    """One part of one output of an engine, compared with the same part of its graph's."""

    output: str
    part: str
    """Such as `boxes`; empty: the whole output."""
    snr_db: float | None
    """None: identical."""
    min_snr_db: float | None
    """None: not judged, since the differences are negligible."""


class Faithfulness(Value, frozen=True):
    """Whether an engine computes its graph: its outputs against those of the graph computed as written, node by node.

    They may differ by the order of accumulation, and by where an engine rounds.
    """

    graph: str
    """What the engine is compared with, such as `the graph with Q/DQ pairs, as written`."""
    parts: tuple[PartFaithfulness, ...]
    reason: str
    """Why the bounds have their values."""
    count: int
    """Samples compared."""
    failures: tuple[str, ...] = ()

    @property
    def worst_snr_db(self) -> float | None:
        """The smallest SNR; None: every part is identical."""
        return min((part.snr_db for part in self.parts if part.snr_db is not None), default=None)


class PartCost(Value, frozen=True):
    """What a precision adds to one part of one output: the graph as written against the reference."""

    output: str
    part: str
    snr_db: float | None
    """None: identical."""
    floor_db: float | None
    """SNR of the precision's own floor: an emulation that rounds every weight and activation of the FP32 graph. None:
    there is none (INT8), or it is exact."""
    min_snr_db: float | None
    """None: not judged, or negligible."""


class PrecisionCost(Value, frozen=True):
    """What the precision costs this network: its graph as written, every rounding done, against the reference."""

    graph: str
    parts: tuple[PartCost, ...]
    outputs: tuple[OutputCost, ...]
    """The cost in the terms of each output's kind."""
    reason: str
    """Why the bounds of `parts` have their values."""
    count: int
    """Samples compared."""
    failures: tuple[str, ...] = ()

    @property
    def worst_snr_db(self) -> float | None:
        """The smallest SNR; None: every part is identical."""
        return min((part.snr_db for part in self.parts if part.snr_db is not None), default=None)


class Parity(Value, frozen=True):
    """The parity verdict on one engine.

    At FP32 its outputs are compared with the reference's. At another precision two questions are answered apart:
    whether the engine is faithful to its graph, and what the graph's precision costs.
    """

    passed: bool
    failures: tuple[str, ...]
    outputs: tuple[OutputParity, ...]
    """The engine against the reference, over all samples: what an application gets."""
    accuracy: Accuracy | None
    tolerance: Tolerance
    """Bounds for the golden vectors, by which every runtime tests itself; at FP32 those of the verdict too."""
    data: DataRecord
    caveats: tuple[str, ...]
    """Restrictions: what the verdict does not cover."""
    oracle: str = "eager PyTorch"
    """Reference that the candidate was compared with."""
    faithfulness: Faithfulness | None = None
    """None: not evaluated apart, as in a self-test."""
    cost: PrecisionCost | None = None
    """Cost of the portable graph; None: FP32, or not evaluated."""
    form_cost: PrecisionCost | None = None
    """Cost of the backend's own form of the graph; None: its engine computes the portable graph."""
    accuracy_unknown: bool = False
    """Whether the verdict says nothing about accuracy: the weights are untrained."""

    @property
    def executed_cost(self) -> PrecisionCost | None:
        """The cost of the graph that the engine computes."""
        return self.form_cost or self.cost

    @property
    def worst_snr_db(self) -> float | None:
        """SNR of the worst output against the reference, of the graph that the engine computes where it rounds; None:
        identical.
        """
        if self.executed_cost is not None:
            return self.executed_cost.worst_snr_db
        return min((output.snr_db for output in self.outputs if output.snr_db is not None), default=None)


class Provenance(Value, frozen=True):
    """Machine, library versions and time of creation."""

    created: str
    """UTC, ISO 8601."""
    deploykit: str
    code_sha256: str
    libraries: Mapping[str, str]
    python: str
    system: str
    host: str
    processor: str
    cores: int


class Prediction(Value, frozen=True):
    """The most probable classes of one image, best first."""

    image: str
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    """Probabilities."""


class MatrixRow(Value, frozen=True):
    """One row of `deploykit parity`: a network at one precision on one backend."""

    model: str
    precision: Precision
    backend: str
    parity: Parity
    receipt: PrecisionReceipt | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """Failures of parity and of the executed precision."""
        return (*self.parity.failures, *(self.receipt.failures if self.receipt else ()))

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.parity.passed and not self.failures


class Finding(Value, frozen=True):
    """One line of `doctor`."""

    subject: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    remedy: str | None = None
