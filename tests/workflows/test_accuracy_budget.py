"""The accuracy budget: its figures can be written and read back."""

import math
from types import SimpleNamespace

import msgspec
import pytest

from deploykit.core.values import Budget
from deploykit.workflows import accuracy_budget


@pytest.mark.parametrize(
    ("snrs_db", "expected"),
    [
        ([None], accuracy_budget.IDENTICAL_DB),
        ([None, 30.0], 30.0),
        ([-1.7e308], -accuracy_budget.IDENTICAL_DB),
        ([], -accuracy_budget.IDENTICAL_DB),
    ],
    ids=["identical outputs", "one identical output", "outputs that are not finite", "outputs of another shape"],
)
def test_an_infinite_snr_can_be_recorded(snrs_db, expected):
    """JSON has no infinity: a manifest with one could not be read back."""
    parity = SimpleNamespace(outputs=[SimpleNamespace(snr_db=snr) for snr in snrs_db])
    snr_db = accuracy_budget._drop_or_snr(SimpleNamespace(parity=parity), "SNR dB")
    budget = Budget("SNR dB", 20.0, snr_db, (), met=snr_db >= 20)
    assert msgspec.json.decode(msgspec.json.encode(budget), type=Budget).start == expected
    assert math.isfinite(budget.end)
