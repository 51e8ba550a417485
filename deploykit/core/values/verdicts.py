"""Verdicts: compared outputs, tolerances, accuracy and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.base import Precision, Value
from deploykit.core.values.quantization import PrecisionReceipt
from deploykit.core.values.samples import DataRecord


class Tolerance(Value, frozen=True):
    """Bounds that a candidate must satisfy, each with its reason; None: not checked."""

    name: str
    max_relative: float
    min_cosine: float
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
    cosine: float
    """Cosine similarity of the worst sample."""
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

    @property
    def drop(self) -> float:
        """Top-1 drop of the candidate, as a share of 1."""
        return self.reference - self.candidate


class Parity(Value, frozen=True):
    """The parity verdict: whether the candidate's outputs match the original network's within the tolerance."""

    passed: bool
    failures: tuple[str, ...]
    outputs: tuple[OutputParity, ...]
    accuracy: Accuracy | None
    tolerance: Tolerance
    data: DataRecord
    caveats: tuple[str, ...]
    """Restrictions: what the verdict does not cover."""
    oracle: str = "eager PyTorch"
    """Reference that the candidate was compared with."""


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
