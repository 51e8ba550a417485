"""The one table of tolerances: what a candidate may differ by at each precision, each bound with its reason.

The bounds follow from one estimate. A rounding to a type with unit u leaves a relative error of about u/2 (root mean
square). In a layer that sums K products, errors of the weights and of the inputs are independent and average out to
about the same share of the sum; errors of the accumulation itself grow like √K·u. Over L layers in a chain the shares
add up like √L. Skips and concatenations only shorten the chain, so that the deepest network (152 layers) bounds all.
A 5 % error in the weights of one layer, for comparison, leaves 26 dB in a chain, and 43 dB where skips bypass it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from deploykit.values import Precision, Tolerance

TOLERANCES: Final[dict[Precision, Tolerance]] = {
    "fp32": Tolerance(
        name="fp32",
        max_relative=5e-4,
        min_cosine=0.999_999_8,
        min_snr_db=80.0,
        min_top1_agreement=0.999,
        reasons={
            "min_snr_db": (
                "float32 sums of K = 4608 products in another order differ by about √K·2⁻²⁵ = 2·10⁻⁶, over 152 layers "
                "by 2.5·10⁻⁵ or 92 dB; the bound leaves a factor of 4 for fused and Winograd kernels. TF32 has 10 bits "
                "of mantissa, ends near 55 dB and is not float32"
            ),
            "max_relative": "the largest of some ten thousand errors is 4 to 5 times their root mean square of 10⁻⁴",
            "min_cosine": "1 − e²/2 for an error of e = 6·10⁻⁴ of one sample, about that of max_relative",
            "min_top1_agreement": "the two best classes of 1 sample in 1000 may lie closer together than that",
        },
    ),
    "fp16": Tolerance(
        name="fp16",
        max_relative=2.5e-2,
        min_cosine=0.999_7,
        min_snr_db=45.0,
        min_top1_agreement=0.99,
        reasons={
            "min_snr_db": (
                "float16 rounds by 2⁻¹¹, a root mean square of 2·10⁻⁴, once for the weights and once for the "
                "activations of a layer: √(2·152)·2·10⁻⁴ = 3.5·10⁻³ or 49 dB for the deepest chain (19 layers: 58 dB); "
                "the bound leaves a factor of 1.6. Sums are expected in float32, as tensor cores form them"
            ),
            "max_relative": (
                "the largest of some ten thousand errors is 4 to 5 times their root mean square of 5.6·10⁻³"
            ),
            "min_cosine": "1 − e²/2 for an error of e = 2.5·10⁻² of one sample, that of max_relative",
            "min_top1_agreement": "the two best classes of 1 sample in 100 may lie closer together than that",
        },
    ),
}

UNTRAINED: Final = (
    "not judged: with untrained weights the best classes lie closer together than a rounding error, "
    "so that a faithful candidate may order them differently"
)


def for_precision(precision: Precision, trained: bool) -> Tolerance:
    """The bounds for a candidate at `precision`; top-1 agreement is judged of trained weights only."""
    tolerance = TOLERANCES[precision]
    if trained:
        return tolerance
    return msgspec.structs.replace(
        tolerance,
        min_top1_agreement=None,
        reasons={**tolerance.reasons, "min_top1_agreement": UNTRAINED},
    )
