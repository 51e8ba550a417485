"""Verdicts: what was compared, by which bounds, on which machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.quantization import PrecisionReceipt
from deploykit.core.values.samples import DataRecord
from deploykit.core.values.words import Precision, Value


class Tolerance(Value, frozen=True):
    """The bounds a candidate must keep, each with its reason; None: not judged."""

    name: str
    max_relative: float
    min_cosine: float
    min_snr_db: float
    min_top1_agreement: float | None
    reasons: Mapping[str, str]


class OutputParity(Value, frozen=True):
    """One output of a candidate against the oracle's, over all samples."""

    name: str
    max_abs: float
    mean_abs: float
    max_relative: float
    """max |Δ| over the largest magnitude of the reference: 1e-3 is a thousandth of full scale."""
    cosine: float
    """The worst sample's."""
    snr_db: float | None
    """10·log10(Σ reference² / Σ Δ²); None: the outputs are identical."""
    kl: float | None
    """Mean KL(reference ‖ candidate) of the class distributions, in nats; None where no classes are told apart."""
    top1_agreement: float | None
    top5_overlap: float | None


class Accuracy(Value, frozen=True):
    """Top-1 on labelled samples, of both, as shares of 1."""

    reference: float
    candidate: float
    count: int

    @property
    def drop(self) -> float:
        """Points of top-1 that the candidate lost, as a share of 1."""
        return self.reference - self.candidate


class Parity(Value, frozen=True):
    """The verdict: does the candidate compute what the network computes as it was brought?"""

    passed: bool
    failures: tuple[str, ...]
    outputs: tuple[OutputParity, ...]
    accuracy: Accuracy | None
    tolerance: Tolerance
    data: DataRecord
    statements: tuple[str, ...]
    """What the verdict does not cover."""
    oracle: str = "eager PyTorch"
    """What the candidate was compared with."""


class Provenance(Value, frozen=True):
    """The machine, the versions and the moment."""

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
    """One image's best classes, best first."""

    image: str
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    """Probabilities."""


class MatrixRow(Value, frozen=True):
    """One network at one precision on one backend, as `parity` shows it."""

    model: str
    precision: Precision
    backend: str
    parity: Parity
    receipt: PrecisionReceipt | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """Of parity, and of INT8 that was asked for and not computed."""
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
