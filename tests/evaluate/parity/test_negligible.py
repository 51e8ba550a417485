"""Probabilities near zero everywhere: rounding is most of them, and nobody can tell."""

import numpy as np
import pytest

from deploykit.core.values import DataRecord
from deploykit.evaluate.parity.compare import PairedOutputs, compare_outputs
from deploykit.evaluate.parity.negligible import LAST_STEP, is_negligible
from deploykit.evaluate.parity.tolerances import GROSS_DB, derive_tolerance, for_fp32

RANDOM = np.random.default_rng(0)
NOTHING = RANDOM.uniform(0, 2e-7, (4, 1, 8, 8)).astype(np.float32)
"""A text detector's map of a picture without text."""


def shifted(by):
    return (NOTHING + np.float32(by)).astype(np.float32)


@pytest.mark.parametrize("precision", LAST_STEP)
def test_less_than_the_last_step_is_negligible_and_more_is_not(precision):
    step = LAST_STEP[precision]
    assert is_negligible(NOTHING, shifted(0.9 * step), precision)
    assert not is_negligible(NOTHING, shifted(1.2 * step), precision)


@pytest.mark.parametrize("reference", [NOTHING - 1e-6, NOTHING + 2], ids=["a logit", "a length"])
def test_what_is_no_probability_is_never_negligible(reference):
    assert not is_negligible(reference, reference, "int8")


def test_nan_is_not_negligible():
    assert not is_negligible(NOTHING, np.full_like(NOTHING, np.nan), "int8")


def test_fp32_passes_where_nobody_can_tell():
    data = DataRecord("photos", "evaluation", 4, real=True, labelled=False, sha256="0" * 64)

    def judge(candidate):
        return compare_outputs(
            PairedOutputs({"map": NOTHING}, {"map": candidate}, (None,) * 4), for_fp32(True), data, "tensors"
        )

    assert judge(NOTHING[::-1]).passed
    assert not judge(shifted(1e-3)).passed


def test_golden_vectors_without_a_signal_show_a_gross_error_alone():
    assert derive_tolerance("fp16", [(NOTHING, NOTHING[::-1])]).min_snr_db == GROSS_DB
