"""Tolerances as a bundle may record them, for tests of what applies bounds."""

from deploykit.core.values import Precision, Tolerance
from deploykit.evaluate.parity.tolerances import UNTRAINED, for_fp32

FP16 = Tolerance("fp16", 3e-2, 0.9995, 40.0, 0.99, {"min_snr_db": "an error of a hundredth of the signal"})
INT8 = Tolerance("int8", 5e-1, 0.93, 10.0, 0.9, {"min_snr_db": "an error of a third of the signal"})


def example_tolerance(precision: Precision, trained: bool = True) -> Tolerance:
    """A tolerance of that precision; top-1 agreement is bounded for trained weights only."""
    if precision == "fp32":
        return for_fp32(trained)
    wide = FP16 if precision == "fp16" else INT8
    if trained:
        return wide
    reasons = {**wide.reasons, "min_top1_agreement": UNTRAINED}
    return Tolerance(wide.name, wide.max_relative, wide.min_cosine, wide.min_snr_db, None, reasons)
