"""The accuracy budget: its figures can be written and read back."""

import math
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from deploykit.core.values import Batch, Budget
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


BOXES, SCORES = np.full((2, 4, 3), 300.0), np.full((2, 4), 0.5)
UNLABELLED = [Batch({}, (None, None))]


@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_every_output_weighs_alike_in_the_loss_whatever_its_unit_and_place(name):
    exact = {"boxes": BOXES, "scores": SCORES}
    loss = accuracy_budget.make_loss("tensors", exact, UNLABELLED)
    assert loss(exact) == 0
    assert loss({**exact, name: 1.1 * exact[name]}) == pytest.approx(0.01 / 2)


def test_an_output_of_zeros_adds_no_loss_unless_it_changes():
    exact = {"scores": SCORES, "mask": np.zeros((2, 3))}
    loss = accuracy_budget.make_loss("tensors", exact, UNLABELLED)
    assert loss({**exact, "scores": 1.1 * SCORES}) == pytest.approx(0.01 / 2)
    assert loss({**exact, "mask": np.ones((2, 3))}) == math.inf


def test_with_labels_the_loss_is_the_rise_in_cross_entropy_of_the_first_output():
    exact = {"logits": np.array([[2.0, 0.0], [0.0, 2.0]]), "features": np.ones((2, 8))}
    loss = accuracy_budget.make_loss("logits", exact, [Batch({}, (0, 1))])
    assert loss({**exact, "features": np.zeros((2, 8))}) == 0
    assert loss({**exact, "logits": np.zeros((2, 2))}) == pytest.approx(math.log(2) - math.log(1 + math.exp(-2)))
