"""Default tolerances by precision, each bound with its reason.

The bounds follow from one estimate. Rounding to a type with unit u leaves a relative error of about u/2 (root mean
square). In a layer that sums K products, errors of weights and inputs are independent and average out to about the same
share of the sum; errors of the accumulation itself grow like √K·u. Over a chain of L layers the shares grow like √L;
skips and joins shorten the chain.

Measured over the catalog with random weights and BatchNorm statistics from noise, on photographs (`deploykit parity`):
float32 106 to 144 dB; FP16 graphs 44 dB (FractalNet-40) and 46 to 47 dB (VGG-19 with BatchNorm, DenseNet) to 68 dB;
INT8 13 dB (FractalNet-40) and 17 dB (VGG-16 with BatchNorm, GoogLeNet, DenseNet-201) to 36 dB. Untrained networks are
the hard case: the means of their channels are far above their standard deviations, and the mean is what is rounded.

For comparison: swapped colour channels leave 13 to 25 dB. 5 % noise on the weights of one layer leaves 24 to 43 dB
where the whole signal passes through it, but up to 62 dB in one branch of many: no float16 bound can tell that from
rounding. The exported graph's parity in FP32 can, and every export checks it first.
"""

from __future__ import annotations

from typing import Final

import msgspec

from deploykit.core.values import Precision, Tolerance

INT8: Final = Tolerance(
    name="int8",
    max_relative=5e-1,
    min_cosine=0.93,
    min_snr_db=10.0,
    min_top1_agreement=0.9,
    reasons={
        "min_snr_db": (
            "rounding to 127 steps of a range that is r times the root mean square leaves r²/(12·127²), 37 dB for "
            "r = 6, once for weights and once for activations of each layer: 17 dB for a chain of 50. Skips shorten "
            "the chain; one scale for channels of unequal ranges costs several dB more: the worst network of the "
            "catalog, untrained, ends at 13 dB (FractalNet-40). The bound is an error of a third of the signal, beyond "
            "which a comparison is meaningless; what a network can afford is measured by its accuracy: --max-drop"
        ),
        "max_relative": "the largest of some ten thousand errors is about 4 times that third of the root mean square, "
        "which is a third of full scale",
        "min_cosine": "1 − e²/2 for an error of e = 0.37 in one sample, which may have a weak signal",
        "min_top1_agreement": "the two highest logits of 1 sample in 10 may be closer than that",
    },
)
"""For INT8 and INT8 with FP16: FP16 rounding errors are a thousandth of INT8's."""

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
                "of mantissa, reaches only about 55 dB and is not float32"
            ),
            "max_relative": "the largest of some ten thousand errors is 4 to 5 times their root mean square of 10⁻⁴",
            "min_cosine": "1 − e²/2 for an error of e = 6·10⁻⁴ in one sample, which may have a weak signal",
            "min_top1_agreement": "the two highest logits of 1 sample in 1000 may be closer than that",
        },
    ),
    "fp16": Tolerance(
        name="fp16",
        max_relative=3e-2,
        min_cosine=0.999_5,
        min_snr_db=40.0,
        min_top1_agreement=0.99,
        reasons={
            "min_snr_db": (
                "float16 rounds by 2⁻¹¹, a root mean square of 2·10⁻⁴, once for weights and once for activations of "
                "each layer: √(2·19)·2·10⁻⁴ = 1.2·10⁻³ or 58 dB for the longest chain without skips; channels whose "
                "mean is several deviations multiply that, to 44 dB in the worst network of the catalog, untrained. "
                "The bound is an error of a hundredth of the signal. Accumulation is expected in float32, as in tensor "
                "cores"
            ),
            "max_relative": "the largest of some ten thousand errors is about 3 times that hundredth",
            "min_cosine": "1 − e²/2 for an error of e = 3·10⁻² in one sample, which may have a weak signal",
            "min_top1_agreement": "the two highest logits of 1 sample in 100 may be closer than that",
        },
    ),
    "bf16": Tolerance(
        name="bf16",
        max_relative=2e-1,
        min_cosine=0.98,
        min_snr_db=22.0,
        min_top1_agreement=0.9,
        reasons={
            "min_snr_db": "bfloat16 has 3 bits less than float16: estimate and bound are 18 dB lower",
            "max_relative": "2³ times float16's, limited by full scale",
            "min_cosine": "1 − e²/2 for an error of e = 0.2 in one sample, which may have a weak signal",
            "min_top1_agreement": "the two highest logits of 1 sample in 10 may be closer than that",
        },
    ),
    "int8": INT8,
    "int8-fp16": msgspec.structs.replace(INT8, name="int8-fp16"),
}

UNTRAINED: Final = "not checked: with untrained weights the top logits are near-ties; rounding alone may reorder them"


def for_precision(precision: Precision, trained: bool) -> Tolerance:
    """The tolerance for a candidate at `precision`; top-1 agreement is checked for trained weights only."""
    tolerance = TOLERANCES[precision]
    if trained:
        return tolerance
    return msgspec.structs.replace(
        tolerance,
        min_top1_agreement=None,
        reasons={**tolerance.reasons, "min_top1_agreement": UNTRAINED},
    )
