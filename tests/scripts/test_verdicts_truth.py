"""scripts/verdicts/truth.py: how far an engine agrees with the original network, in the terms of its task."""

import ast
import math

import numpy as np
import pytest
from programs import SCRIPTS
from verdicts import truth


def one_hot(classes, count=4):
    return np.eye(count, dtype=np.float32)[list(classes)]


# ── Independence ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("module", ["truth", "outputs", "pictures", "pixels", "networks", "download"])
def test_the_truth_is_measured_without_deploykit(module):
    tree = ast.parse((SCRIPTS / "verdicts" / f"{module}.py").read_text(encoding="utf-8"))
    names = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in names if name.partition(".")[0] == "deploykit"] == []


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_agreement_is_the_share_of_pictures_with_the_same_best_class():
    result = truth.compare_classes(one_hot([0, 1, 2, 3]), one_hot([0, 1, 2, 0]))
    assert result.value == 0.75
    assert result.text == "top-1 agreement 75.0% (30% to 95%) of 4"


def test_agreement_does_not_depend_on_the_size_of_the_scores():
    assert truth.compare_classes(one_hot([0, 1]), 7 * one_hot([0, 1])).value == 1


def test_not_a_number_disagrees():
    broken = one_hot([0, 1])
    broken[0, 3] = math.nan
    assert truth.compare_classes(one_hot([0, 1]), broken).value == 0.5


def test_the_interval_is_wilsons():
    """Newcombe 1998, table I: 81 of 263."""
    assert truth.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


# ── Maps of text ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_text_masks_are_compared_above_the_threshold():
    original = np.array([0.9, 0.31, 0.31, 0.1]).reshape(1, 1, 2, 2)
    candidate = np.array([0.5, 0.29, 0.40, 0.2]).reshape(1, 1, 2, 2)
    result = truth.compare_text_masks(original, candidate)
    assert result.value == pytest.approx(2 * 2 / (3 + 2))
    assert "IoU 0.6667" in result.text


def test_pages_without_text_agree():
    assert truth.compare_text_masks(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))).value == 1


def test_a_mask_that_finds_nothing_has_f1_of_0():
    assert truth.compare_text_masks(np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))).value == 0


# ── Lines of text ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctc_merges_repetitions_and_drops_blanks():
    assert truth.decode_ctc(one_hot([1, 1, 0, 1, 2, 2, 0])[None]) == [[1, 1, 2]]


def test_characters_are_counted_by_edit_distance():
    original = np.stack([one_hot([1, 2, 3, 0]), one_hot([3, 0, 0, 0])])
    candidate = np.stack([one_hot([1, 3, 0, 0]), one_hot([3, 0, 0, 0])])
    result = truth.compare_lines(original, candidate)
    assert result.value == pytest.approx(1 - 1 / 4)
    assert result.text == "characters 75.0% of 4, 1 of 2 lines identical"


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distance(left, right, distance):
    assert truth.edit_distance([*map(ord, left)], [*map(ord, right)]) == distance


# ── Boxes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_boxes(*anchors):
    """One picture's output, from (x, y, width, height, scores of two classes) per anchor: 1 × 6 × anchors."""
    return np.array(anchors, np.float32).T[None]


PERSON = (50, 50, 20, 40, 0.9, 0.0)
HOUSE = (150, 80, 60, 60, 0.0, 0.8)


def test_equal_outputs_have_f1_of_1():
    result = truth.compare_detections(make_boxes(PERSON, HOUSE), make_boxes(PERSON, HOUSE))
    assert result.value == 1
    assert result.text == "F1 of detections 1.000: 2 expected, 2 found, 2 matched"


@pytest.mark.parametrize(
    "other",
    [
        (50, 50, 20, 40, 0.0, 0.9),  # another class
        (70, 50, 20, 40, 0.9, 0.0),  # another place
        (50, 50, 20, 40, 0.2, 0.0),  # below the score
        (50, 50, 20, 40, math.nan, math.nan),
    ],
)
def test_a_detection_is_lost_with_its_class_its_place_or_its_score(other):
    assert truth.compare_detections(make_boxes(PERSON), make_boxes(other)).value == 0


def test_a_slightly_moved_box_is_the_same_detection():
    moved = (52, 51, 20, 40, 0.7, 0.0)
    assert truth.compare_detections(make_boxes(PERSON), make_boxes(moved)).value == 1


def test_of_overlapping_boxes_the_best_survives():
    weaker = (51, 50, 20, 40, 0.6, 0.0)
    assert [item.score for item in truth.decode_boxes(make_boxes(weaker, PERSON)[0])] == [pytest.approx(0.9)]


def test_an_expected_box_is_matched_once():
    expected = [truth.Detection(0, 0.9, (0, 0, 10, 10))]
    found = [truth.Detection(0, 0.9, (0, 0, 10, 10)), truth.Detection(0, 0.8, (0, 0, 10, 9))]
    assert truth.count_matches(expected, found) == 1


# ── Noise ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tenth_of_noise_is_20_db():
    assert truth.signal_to_noise_db(np.array([1.0, -1.0]), np.array([1.1, -1.1])) == pytest.approx(20)


def test_equal_outputs_have_no_noise():
    assert truth.signal_to_noise_db(np.ones(3), np.ones(3)) == math.inf


# ── Judgement ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("value", "precision", "usable"), [(0.7, "int8", True), (0.69, "int8", False)])
def test_usable_begins_at_the_threshold(value, precision, usable):
    assert truth.Truth("top-1 agreement", value, "").is_usable(precision) is usable


def test_fp16_is_held_to_a_higher_threshold_than_int8():
    assert all(bounds["fp16"] > bounds["int8"] for bounds in truth.USABLE.values())
