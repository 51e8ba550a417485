"""Parity metrics: differences between a candidate's and a reference's outputs.

All functions take a reference and a candidate of the same shape, N×C or N×… (sample axis first), as float16, float32 or
float64, and accumulate in float64, where the square of any float32 is finite. Δ is candidate − reference.

A candidate with NaN or infinity gets the worst possible value (∞, −1, 0), which no bound accepts. The reference must be
finite.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""Replaces a probability of zero: float32 and float16 round tiny ones to zero, and ln 0 would turn one such rounding
into an infinite divergence."""


def max_abs(reference: Array, candidate: Array) -> float:
    """Largest |Δ| over all samples and elements, in the output's unit."""
    return _nan_to_infinity(np.abs(_difference(reference, candidate)).max())


def mean_abs(reference: Array, candidate: Array) -> float:
    """Σ|Δ| / (N·C), in the output's unit."""
    return _nan_to_infinity(np.abs(_difference(reference, candidate)).mean())


def max_relative(reference: Array, candidate: Array) -> float:
    """Largest |Δ| / largest |reference|, both over all samples: the largest error as a share of full scale.

    A ratio per element would be dominated by elements near zero. For an all-zero reference: 0 if the candidate is zero
    too, else ∞.
    """
    error = max_abs(reference, candidate)
    scale = float(np.abs(reference.astype(np.float64)).max())
    return error / scale if scale > 0 else _ratio_to_zero(error)


def cosine(reference: Array, candidate: Array) -> float:
    """Smallest cosine similarity over samples, ⟨r, c⟩ / (‖r‖·‖c‖), from −1 to 1.

    It is 1 for two zero vectors and 0 for a zero and a non-zero one.
    """
    r, c = _as_rows(reference, candidate)
    if not np.isfinite(c).all():
        return -1.0
    return min(_cosine_of_one(*pair) for pair in zip(r, c, strict=True))


def snr_db(reference: Array, candidate: Array) -> float | None:
    """10·log₁₀(Σ reference² / Σ Δ²) over all samples, in decibels; None: the outputs are identical.

    20 dB is an error of a tenth of the signal (root mean square), 60 dB of a thousandth. An all-zero reference with a
    different candidate gives −∞.
    """
    difference = _difference(reference, candidate)
    if not np.isfinite(difference).all():
        return -math.inf
    noise = float(np.square(difference).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def bounded_snr_db(reference: Array, candidate: Array) -> float | None:
    """`snr_db` as a finite number: −∞, also that of a reference with NaN or infinity, becomes the least float."""
    if not np.isfinite(reference).all():
        return -sys.float_info.max
    snr = snr_db(reference, candidate)
    return None if snr is None else clamp_to_float(snr)


def clamp_to_float(figure: float) -> float:
    """Replace infinity by the largest float: JSON has no infinity, and records of failures must be readable too."""
    return min(max(figure, -sys.float_info.max), sys.float_info.max)


def variation(reference: Array) -> float:
    """√(Σ (r − r̄)² / Σ r²) with r̄ the mean over samples: 0 if all samples are equal, near 1 if they differ."""
    r = reference.astype(np.float64)
    power = float(np.square(r).sum())
    return math.sqrt(float(np.square(r - r.mean(axis=0)).sum()) / power) if power > 0 else 0.0


def kl_of_logits(reference: Array, candidate: Array) -> float:
    """Mean over samples of KL(softmax(r) ‖ softmax(c)) = Σ p·(ln p − ln q), in nats; N×C logits in."""
    r, c = _as_rows(reference, candidate)
    if not np.isfinite(c).all():
        return math.inf
    return _mean_divergence(_log_softmax(r), _log_softmax(c))


def kl_of_probabilities(reference: Array, candidate: Array) -> float:
    """Mean over samples of KL(r ‖ c), in nats; N×C distributions in, each normalized to a sum of 1 first.

    Otherwise a distribution rounded to float16 may sum to less than 1, and the divergence may be negative.
    """
    r, c = _as_rows(reference, candidate)
    if not np.isfinite(c).all():
        return math.inf
    return _mean_divergence(_log_distribution(r), _log_distribution(c))


def top1_agreement(reference: Array, candidate: Array) -> float:
    """Share of samples with the same largest element; N×C. Of equal elements the first counts, as in argmax."""
    r, c = _as_rows(reference, candidate)
    return float(((r.argmax(axis=1) == c.argmax(axis=1)) & np.isfinite(c).all(axis=1)).mean())


def top5_overlap(reference: Array, candidate: Array) -> float:
    """Mean over samples of |top5(r) ∩ top5(c)| / 5, in any order; N×C. With fewer than 5 classes, all count."""
    r, c = _as_rows(reference, candidate)
    k = min(5, r.shape[1])
    best_r, best_c = (np.argsort(-scores, axis=1, kind="stable")[:, :k] for scores in (r, c))
    shared = (best_r[:, :, None] == best_c[:, None, :]).sum(axis=(1, 2)) / k
    return float(np.where(np.isfinite(c).all(axis=1), shared, 0.0).mean())


def top1_accuracy(scores: Array, labels: Array) -> float:
    """Share of samples whose largest element is the label's; N×C scores, N labels."""
    finite = np.isfinite(scores).all(axis=1)
    return float(((scores.argmax(axis=1) == labels) & finite).mean())


def cross_entropy(logits: Array, labels: Array) -> float:
    """Mean over samples of −ln softmax(logits)[label], in nats; N×C logits, N labels. ∞ where a logit is not finite."""
    if not np.isfinite(logits).all():
        return math.inf
    return float(-_log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels].mean())


def _as_rows(reference: Array, candidate: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as N×C float64."""
    if reference.shape != candidate.shape or reference.size == 0:
        raise ValueError(f"the arrays must have the same shape, not {reference.shape} and {candidate.shape}")
    if not np.isfinite(reference).all():
        raise ValueError("the reference contains NaN or infinity")
    samples = reference.shape[0]
    return (
        reference.reshape(samples, -1).astype(np.float64),
        candidate.reshape(samples, -1).astype(np.float64),
    )


def _difference(reference: Array, candidate: Array) -> NDArray[np.float64]:
    r, c = _as_rows(reference, candidate)
    return np.subtract(c, r)


def _nan_to_infinity(figure: np.float64) -> float:
    """Replace NaN, for which comparisons with a bound are meaningless, by infinity, which is above every bound."""
    return math.inf if np.isnan(figure) else float(figure)


def _cosine_of_one(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    product = float(np.linalg.norm(reference) * np.linalg.norm(candidate))
    if product > 0:
        return max(-1.0, min(1.0, float(reference @ candidate) / product))  # rounding may exceed the interval
    return float(not reference.any() and not candidate.any())


def _ratio_to_zero(error: float) -> float:
    return 0.0 if error == 0 else math.inf


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)  # the largest becomes e⁰, so that nothing overflows
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _log_distribution(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.maximum(probabilities, SMALLEST_PROBABILITY)
    logs: NDArray[np.float64] = np.log(positive / positive.sum(axis=1, keepdims=True))
    return logs


def _mean_divergence(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> float:
    divergences = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return float(np.maximum(divergences, 0.0).mean())  # rounding may turn zero into −1e-17
