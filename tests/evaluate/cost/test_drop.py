"""Top-1 drop with its interval for paired samples."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deploykit.core.errors import InputError
from deploykit.evaluate.cost import measure_drop


def draw_scores(right):
    """N×3 scores whose best class is 1 where it is right, else 2; the labels are all 1."""
    return np.eye(3)[np.where(right, 1, 2)]


def measure_cells(both, lost, gained, neither):
    """The drop for so many samples that both, only the reference, only the candidate and none classify correctly."""
    counts = (both, lost, gained, neither)
    reference, candidate = (np.repeat(right, counts) for right in ([1, 1, 0, 0], [1, 0, 1, 0]))
    return measure_drop(draw_scores(reference), draw_scores(candidate), np.ones(sum(counts), int))


def test_the_drop_is_the_difference_of_the_accuracies():
    drop = measure_cells(both=70, lost=12, gained=3, neither=15)
    assert (drop.reference, drop.candidate, drop.drop) == (0.82, 0.73, pytest.approx(0.09))
    assert (drop.lost, drop.gained, drop.count) == (12, 3, 100)


def test_the_interval_is_bonett_and_prices():
    p, q, n = 13 / 102, 4 / 102, 102
    half = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / n)
    drop = measure_cells(both=70, lost=12, gained=3, neither=15)
    assert (drop.low, drop.high) == pytest.approx((p - q - half, p - q + half), abs=1e-6)


def test_without_a_changed_sample_the_interval_is_not_empty():
    drop = measure_cells(both=16, lost=0, gained=0, neither=0)
    assert drop.low < drop.drop == 0 < drop.high < 0.2


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.02), (0.05, 0.05), (0.25, 0.1)])
def test_the_interval_covers_the_true_drop(p, q):
    """Exactly, over all outcomes of 30 paired samples."""
    coverage = 0.0
    for lost, gained in itertools.product(range(31), repeat=2):
        if lost + gained <= 30:
            drop = measure_cells(both=0, lost=lost, gained=gained, neither=30 - lost - gained)
            if drop.low <= p - q <= drop.high:
                coverage += stats.multinomial.pmf([lost, gained, 30 - lost - gained], 30, [p, q, 1 - p - q])
    assert 0.94 <= coverage <= 0.995


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(1, 9))
def test_the_interval_contains_the_drop(both, lost, gained, neither):
    drop = measure_cells(both, lost, gained, neither)
    assert -1 <= drop.low <= drop.drop <= drop.high <= 1


def test_scores_with_further_axes_of_one_are_class_scores():
    scores, labels = np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 5
    candidate = scores + np.random.default_rng(1).normal(size=scores.shape)
    expected = measure_drop(scores, candidate, labels)
    assert measure_drop(scores[..., None, None], candidate[..., None, None], labels) == expected
    assert expected.reference == (scores.argmax(axis=1) == labels).mean()


def test_a_sample_that_is_not_finite_is_wrong():
    scores = np.eye(3)
    candidate = scores.copy()
    candidate[0, 2] = np.nan
    assert measure_drop(scores, candidate, np.arange(3)).lost == 1


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_of_other_classes_are_refused(label):
    with pytest.raises(InputError, match="but the network has 3 classes"):
        measure_drop(np.eye(3), np.eye(3), np.array([0, 1, label]))


@pytest.mark.parametrize(
    ("reference", "labels"),
    [(np.eye(3), np.arange(2)), (np.zeros((2, 3, 4, 4)), np.arange(2)), (np.zeros(3), np.arange(3))],
)
def test_arrays_that_are_not_class_scores_of_the_same_samples_are_refused(reference, labels):
    with pytest.raises(ValueError, match=r"class scores|same samples"):
        measure_drop(reference, reference, labels)
