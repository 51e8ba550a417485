"""Tolerances: at FP32 one with a reason for each bound, at other precisions one that follows from the graph itself.

Rounding to a type with unit u leaves a relative error of about u/2 (root mean square). In a layer that sums K products,
errors of weights and inputs are independent and average out to about the same share of the sum; errors of the
accumulation itself grow like √K·u. Over a chain of L layers the shares grow like √L; skips and joins shorten the chain.

What FP16 or INT8 costs depends on the network: channels whose mean is far above their deviation multiply the error, so
that no constant is right for all. The graph computed as written says what it is for this one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from deploykit.core.values import Precision, Tolerance
from deploykit.evaluate.parity import metrics
from deploykit.evaluate.parity.negligible import is_negligible

if TYPE_CHECKING:
    from numpy.typing import NDArray

FP32: Final = Tolerance(
    name="fp32",
    max_relative=5e-4,
    min_cosine=0.999_999_8,
    min_snr_db=80.0,
    min_top1_agreement=0.999,
    reasons={
        "min_snr_db": (
            "float32 sums of K = 4608 products in another order differ by about √K·2⁻²⁵ = 2·10⁻⁶, over 152 layers "
            "by 2.5·10⁻⁵ or 92 dB; the bound leaves a factor of 4 for fused and Winograd kernels. TF32 has 10 bits "
            "of mantissa, reaches only about 55 dB and is not float32"
        ),
        "max_relative": "the largest of some ten thousand errors is 4 to 5 times their root mean square of 10⁻⁴",
        "min_cosine": "1 − e²/2 for an error of e = 6·10⁻⁴ in one sample, which may have a weak signal",
        "min_top1_agreement": "the two highest logits of 1 sample in 1000 may be closer than that",
    },
)

UNBOUNDED: Final = Tolerance("none", None, None, -sys.float_info.max, None, {})
"""Accepts every finite output."""

GROSS_DB: Final = -20.0
"""SNR of golden vectors whose outputs are all but zero: an error of ten times that is one."""

GOLDEN_MARGIN_DB: Final = 6.0
"""SNR that an engine may lose on the golden vectors against the graph as written: twice its error."""

UNTRAINED: Final = "not checked: with untrained weights the top logits are near-ties; rounding alone may reorder them"


def for_fp32(trained: bool) -> Tolerance:
    """The tolerance of FP32; top-1 agreement is checked for trained weights only."""
    if trained:
        return FP32
    return msgspec.structs.replace(
        FP32,
        min_top1_agreement=None,
        reasons={**FP32.reasons, "min_top1_agreement": UNTRAINED},
    )


def derive_tolerance(precision: Precision, pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Tolerance:
    """The tolerance for golden vectors: `pairs` hold the reference's outputs for them, and those of the graph as
    written.
    """
    judged = [pair for pair in pairs if not is_negligible(*pair, precision)]
    if not judged:
        reason = "the golden vectors' outputs differ by less than a step of the type: only a gross error shows"
        return Tolerance(precision, None, None, GROSS_DB, None, {"min_snr_db": reason})
    snrs_db = [snr for pair in judged if (snr := metrics.bounded_snr_db(*pair)) is not None]
    least_db = min(min(snrs_db, default=FP32.min_snr_db) - GOLDEN_MARGIN_DB, FP32.min_snr_db)
    written = f"{least_db + GOLDEN_MARGIN_DB:.1f} dB"
    reason = f"on the golden vectors the graph as written has {written}; twice that error is allowed"
    return Tolerance(precision, None, None, least_db, None, {"min_snr_db": reason})
