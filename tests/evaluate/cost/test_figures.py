"""The figures of each kind: hand-computed values, and libraries as oracles."""

import drawn
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from deploykit.evaluate.cost import measure_cost
from deploykit.evaluate.cost.box_geometry import box_iou, find_box_format, suppress_boxes, to_corners
from deploykit.evaluate.cost.detections import has_objectness
from deploykit.evaluate.cost.intervals import wilson_interval
from deploykit.evaluate.cost.sequences import edit_distance


def figures_of(kind, reference, candidate):
    return {figure.name: figure for figure in measure_cost("out", kind, reference, candidate).figures}


def values_of(kind, reference, candidate):
    return {name: figure.value for name, figure in figures_of(kind, reference, candidate).items()}


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_classes_agree_sample_by_sample():
    figure = figures_of("classes", np.eye(4), np.eye(4)[[0, 1, 3, 3]])["top-1 agreement"]
    assert (figure.value, figure.low, figure.high) == (0.75, *wilson_interval(0.75, 4))


def test_the_divergence_of_logits_is_that_of_their_probabilities():
    logits = drawn.draw_class_logits(classes=12)
    noisy = drawn.add_noise(logits, 10)
    p, q = special.softmax(logits, axis=1), special.softmax(noisy, axis=1)
    expected = pytest.approx(stats.entropy(p, q, axis=1).mean(), rel=1e-4)
    assert values_of("classes", logits, noisy)["KL divergence"] == expected
    assert values_of("classes", p, q)["KL divergence"] == expected


@given(arrays(np.float32, (5, 7), elements=st.floats(-9, 9, width=32)), st.integers(0, 4))
def test_scores_with_further_axes_of_one_are_class_scores(logits, shift):
    candidate = np.roll(logits, shift, axis=0)
    four_axes = figures_of("classes", logits[..., None, None], candidate[..., None, None])
    assert four_axes == figures_of("classes", logits, candidate)


def test_the_best_five_overlap_in_any_order():
    scores = np.arange(10.0)[None]
    swapped = scores.copy()
    swapped[0, [9, 0]] = swapped[0, [0, 9]]
    assert values_of("classes", scores, swapped)["top-5 overlap"] == 0.8


def test_all_of_five_classes_are_among_the_best_five():
    assert "top-5 overlap" not in values_of("classes", np.eye(5), np.eye(5))


def test_chosen_classes_are_compared_as_they_are():
    assert values_of("classes", np.array([3, 1, 2, 7]), np.array([3, 1, 2, 8])) == {"top-1 agreement": 0.75}


# ── Maps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_rectangle(left, right, value=0.9):
    """1×1×10×10 with columns left to right of that value."""
    mask = np.zeros((1, 1, 10, 10))
    mask[..., left:right] = value
    return mask


def test_masks_are_compared_at_three_thresholds():
    values = values_of("map", draw_rectangle(0, 4), draw_rectangle(2, 6, value=0.6))
    assert values == {
        "mask IoU at 0.3": pytest.approx(1 / 3),
        "changed pixels": 0.4,
        "samples with a mask": 1,
        "mask IoU at 0.5": pytest.approx(1 / 3),
        "mask IoU at 0.7": 0,
    }


def test_logits_are_cut_at_zero():
    values = values_of("map", draw_rectangle(0, 4) - 0.5, draw_rectangle(0, 3) - 0.5)
    assert values == {"mask IoU at 0": 0.75, "changed pixels": pytest.approx(0.1), "samples with a mask": 1}


def test_the_mean_over_masks_leaves_out_samples_without_one():
    reference = np.concatenate([draw_rectangle(0, 4), draw_rectangle(0, 0), draw_rectangle(0, 4)])
    candidate = np.concatenate([draw_rectangle(0, 4), draw_rectangle(0, 1), draw_rectangle(0, 2)])
    assert values_of("map", reference, candidate)["mask IoU at 0.3"] == 0.75


def test_without_any_mask_only_changed_pixels_are_given():
    values = values_of("map", draw_rectangle(0, 0), draw_rectangle(0, 1))
    assert values == {"changed pixels": pytest.approx(0.1), "samples with a mask": 0}


def test_classes_of_pixels_are_compared_by_their_iou():
    reference = np.array([[[0, 0, 0, 1], [0, 0, 1, 1]]])  # 1×H×W
    candidate = np.array([[[0, 0, 0, 1], [0, 0, 0, 2]]])
    expected = {"changed pixels": 0.25, "class IoU": pytest.approx((5 / 6 + 1 / 3) / 2)}
    assert values_of("map", reference, candidate) == expected
    one_hot = [np.moveaxis(np.eye(3)[labels], -1, 1) for labels in (reference, candidate)]  # N×C×H×W
    assert values_of("map", *one_hot) == expected


def test_a_mask_without_a_channel_axis_is_one_channel():
    reference, candidate = draw_rectangle(0, 4), draw_rectangle(1, 5)
    assert values_of("map", reference[:, 0], candidate[:, 0]) == values_of("map", reference, candidate)


# ── Boxes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_corners(count, seed=0):
    rng = np.random.default_rng(seed)
    top_left = rng.uniform(0, 50, (count, 2))
    return np.concatenate([top_left, top_left + rng.uniform(1, 30, (count, 2))], 1)


def test_the_iou_is_torchvisions():
    first, second = draw_corners(20), draw_corners(30, seed=1)
    expected = torchvision.ops.box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(box_iou(first[:, None], second[None]), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_suppression_is_torchvisions(seed):
    rng = np.random.default_rng(seed)
    boxes, scores, classes = draw_corners(200, seed), rng.permutation(200) / 200, rng.integers(0, 3, 200)
    expected = torchvision.ops.batched_nms(*map(torch.from_numpy, (boxes, scores, classes)), 0.5)
    np.testing.assert_array_equal(suppress_boxes(boxes, scores, classes, 0.5), expected.numpy())


def test_centers_become_corners_as_in_torchvision():
    centers = np.abs(draw_corners(20))
    expected = torchvision.ops.box_convert(torch.from_numpy(centers), "cxcywh", "xyxy")
    np.testing.assert_allclose(to_corners(centers, "xywh"), expected.numpy())


@pytest.mark.parametrize(
    ("boxes", "box_format"),
    [
        (draw_corners(50), "xyxy"),
        (np.array([[160.0, 120, 40, 30], [50, 200, 9, 9]]), "xywh"),
        (np.array([[0.5, -2, 1, -3]]), None),
    ],
)
def test_the_format_is_the_one_in_which_they_are_boxes(boxes, box_format):
    assert find_box_format(boxes) == box_format


def test_boxes_are_compared_one_by_one():
    boxes = np.array([[[0.0, 0, 2, 2], [0, 0, 2, 2], [10, 10, 20, 20]]])
    shifted = boxes + np.array([[0.0], [1], [0]])
    assert values_of("boxes", boxes, shifted)["median box IoU"] == 1
    assert values_of("boxes", boxes[:, 1:2], shifted[:, 1:2])["median box IoU"] == pytest.approx(1 / 7)


def test_what_is_no_box_is_measured_as_a_tensor():
    numbers = np.random.default_rng(0).normal(size=(4, 30, 4))
    assert figures_of("boxes", numbers, -numbers) == figures_of("tensor", numbers, -numbers)


# ── Detections ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_detections(*objects):
    """1×7×30, three classes: the objects (center x, center y, width, height, class, score), the rest background."""
    parts = np.zeros((1, 7, 30))
    parts[0, :4] = [[200.0], [200], [10], [10]]
    for anchor, (*box, label, score) in enumerate(objects):
        parts[0, :4, anchor] = box
        parts[0, 4 + label, anchor] = score
    return parts


CAT, DOG, BIRD = (20, 20, 10, 10, 0, 0.9), (60, 60, 20, 20, 1, 0.8), (90, 20, 10, 30, 2, 0.7)


def test_boxes_of_the_same_class_and_place_are_matched():
    values = values_of("detections", make_detections(CAT, DOG), make_detections(CAT, BIRD, DOG))
    assert values["F1 of matched boxes"] == pytest.approx(4 / 5)
    assert (values["boxes of the reference"], values["boxes of the candidate"]) == (2, 3)
    assert values["mean IoU of matched boxes"] == 1


def test_a_box_of_another_class_is_not_matched():
    other = make_detections((*CAT[:4], 1, 0.9))
    assert values_of("detections", make_detections(CAT), other)["F1 of matched boxes"] == 0


def test_two_anchors_of_one_object_are_one_box():
    twice = make_detections(CAT, (21, 20, 10, 10, 0, 0.8))
    assert values_of("detections", make_detections(CAT), twice)["F1 of matched boxes"] == 1


def test_an_object_is_matched_once():
    either_side = make_detections(
        (17, 20, 10, 10, 0, 0.9), (23, 20, 10, 10, 0, 0.8)
    )  # an IoU of 0.54 with the cat each
    values = values_of("detections", make_detections(CAT), either_side)
    assert values["boxes of the candidate"] == 2
    assert values["F1 of matched boxes"] == pytest.approx(2 / 3)


def test_a_box_below_the_smallest_score_does_not_count():
    values = values_of("detections", make_detections(CAT, (*DOG[:5], 0.2)), make_detections(CAT))
    assert values["F1 of matched boxes"] == 1


def test_without_an_object_the_anchors_boxes_are_compared_still():
    values = values_of("detections", make_detections(), make_detections())
    assert "F1 of matched boxes" not in values
    assert values["median box IoU of the best anchors"] == 1


def test_the_order_of_the_axes_is_all_the_same():
    pair = drawn.draw_detections(), drawn.draw_detections(noise=0.5)
    anchors_first = [array.transpose(0, 2, 1) for array in pair]
    assert values_of("detections", *anchors_first) == pytest.approx(values_of("detections", *pair))


def test_scores_are_multiplied_with_objectness_where_there_is_one():
    """As YOLOv5 has it: at anchors without an object, the class scores are arbitrary."""
    detections = drawn.draw_detections().transpose(0, 2, 1)  # N×A×(4+C)
    boxes, scores = detections[..., :4], detections[..., 4:]
    objectness = scores.max(axis=2, keepdims=True)
    conditional = np.random.default_rng(0).dirichlet(np.full(5, 0.3), scores.shape[:2])
    found = objectness[..., 0] > 0.25
    conditional[found] = np.eye(5)[scores.argmax(axis=2)[found]]
    with_objectness = np.concatenate([boxes, objectness, conditional], 2)
    assert has_objectness(with_objectness[..., 4:])
    assert not has_objectness(scores)
    counted = values_of("detections", with_objectness, with_objectness)["boxes of the reference"]
    assert counted == values_of("detections", detections, detections)["boxes of the reference"] > 0


# ── Embeddings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cosine_is_of_the_worst_and_of_the_median_sample():
    reference = np.tile(np.eye(8)[0], (3, 1))
    candidate = np.stack([np.eye(8)[0], np.eye(8)[0] + np.eye(8)[1], np.eye(8)[1]])
    assert values_of("embedding", reference, candidate) == {
        "worst cosine": 0,
        "median cosine": pytest.approx(1 / np.sqrt(2)),
    }


def test_a_common_part_does_not_hide_what_tells_samples_apart():
    reference = drawn.draw_embeddings() + 10
    values = values_of("embedding", reference, np.roll(reference, 1, axis=0))
    assert values["median cosine"] > 0.98
    assert values["median cosine about the mean"] < 0.3


# ── Scalars ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_errors_are_in_units_of_the_spread():
    reference = np.array([1.0, 3.0, 1.0, 3.0])
    assert values_of("scalar", reference, reference + np.array([0, 0.5, 0.5, 2])) == {
        "median error": 0.5,
        "error, worst 10 %": pytest.approx(np.quantile([0, 0.5, 0.5, 2], 0.9)),
        "largest error": 2,
    }


@pytest.mark.parametrize("decimals", [0, 5])
def test_the_rank_correlation_is_scipys_with_ties_too(decimals):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=30).round(decimals)
    candidate = (reference + rng.normal(size=30)).round(decimals)
    figure = figures_of("scalar", reference, candidate)["rank correlation"]
    assert figure.value == pytest.approx(stats.spearmanr(reference, candidate).statistic)
    assert figure.low < figure.value < figure.high


@pytest.mark.parametrize(("count", "rank"), [(5, None), (6, 1), (8, 1), (9, 2), (16, 4), (100, 40)])
def test_the_interval_of_the_median_is_of_order_statistics(count, rank):
    reference, errors = np.arange(count) * 1.0, np.random.default_rng(0).permutation(count) + 1.0
    figure = figures_of("scalar", reference, reference + errors)["median error"]
    expected = None if rank is None else (rank / reference.std(), (count + 1 - rank) / reference.std())
    assert ((figure.low, figure.high) if figure.low is not None else None) == pytest.approx(expected)
    if rank is not None:
        assert stats.binom.cdf(rank - 1, count, 0.5) <= 0.025 < stats.binom.cdf(rank, count, 0.5)


def test_fewer_than_eight_samples_have_no_rank_correlation():
    assert "rank correlation" not in values_of("scalar", np.arange(7.0), np.arange(7.0))


def test_numbers_without_spread_have_their_error_in_their_own_unit():
    assert values_of("scalar", np.full(9, 2.0), np.full(9, 2.5)) == {"largest error, without spread": 0.5}


# ── Sequences ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sequences_are_collapsed_as_ctc_does():
    reference = np.array([[0, 1, 1, 0, 1, 2, 0, 0]])  # 1 1 2
    candidate = np.array([[0, 0, 1, 0, 1, 2, 2, 0]])  # 1 1 2, a step later
    assert values_of("sequence", reference, candidate) == {
        "token agreement": 0.75,
        "normalized edit distance": 0,
        "equal sequences": 1,
        "samples with text": 1,
        "blank token": 0,
    }


def test_the_edit_distance_is_normalized_by_the_longer_text():
    reference, candidate = np.array([[0, 0, 0, 0, 0, 1]]), np.array([[2, 3, 4, 0, 1, 0]])
    assert values_of("sequence", reference, candidate)["normalized edit distance"] == 0.75


@pytest.mark.parametrize("as_given", [lambda p: p, np.log], ids=["probabilities", "logarithms"])
@pytest.mark.parametrize(("probability", "texts"), [(0.4, 0), (0.6, 1)])
def test_a_text_that_the_reference_guesses_is_not_compared(probability, texts, as_given):
    steps = np.tile([0.98, 0.01, 0.005, 0.005], (1, 6, 1))
    steps[0, 2] = [0.0001, probability, (1 - probability) / 2, (1 - probability) / 2 - 0.0001]
    values = values_of("sequence", as_given(steps), as_given(steps))
    assert values["samples with text"] == texts
    assert ("normalized edit distance" in values) == bool(texts)


def test_the_blank_is_the_most_frequent_token_wherever_it_stands():
    scores = np.roll(drawn.draw_text_logits(), -1, axis=2)
    assert values_of("sequence", scores, scores)["blank token"] == 59


def test_a_blank_text_has_no_edit_distance():
    values = values_of("sequence", np.zeros((2, 5), int), np.ones((2, 5), int))
    assert values == {"token agreement": 0, "samples with text": 0, "blank token": 0}


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_the_edit_distance_is_levenshteins(first, second, distance):
    assert edit_distance(list(map(ord, first)), list(map(ord, second))) == distance


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_the_edit_distance_is_symmetric_and_bounded(first, second):
    distance = edit_distance(first, second)
    assert distance == edit_distance(second, first)
    assert abs(len(first) - len(second)) <= distance <= max(len(first), len(second))


# ── Tensors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("offset", [0, 1000])
def test_the_spread_leaves_out_what_all_samples_share(offset):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(2000, 4)) + offset * rng.normal(size=4)
    values = values_of("tensor", reference, reference + 0.1)
    assert values["SNR over the spread"] == pytest.approx(20, abs=0.2)
    assert values["median error"] == pytest.approx(0.1, rel=0.03)


def test_the_worst_percent_and_the_largest_error_are_apart():
    reference = np.tile([[-1.0], [1.0]], (1, 1000))
    candidate = reference.copy()
    candidate[0, :5] += 3
    values = values_of("tensor", reference, candidate)
    assert (values["median error"], values["error, worst 1 %"], values["largest error"]) == (0, 0, 3)


def test_anchors_that_are_the_same_for_all_samples_have_the_spread_of_their_elements():
    anchors = np.tile(np.arange(100.0), (4, 1))
    assert values_of("tensor", anchors, anchors + anchors.std() / 10)["SNR over the spread"] == pytest.approx(20)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_, np.float16])
def test_a_tensor_of_any_type_is_measured_in_floating_point(dtype):
    reference = np.random.default_rng(0).integers(0, 2, (4, 20)).astype(dtype)
    expected = values_of("tensor", reference.astype(np.float32), 1 - reference.astype(np.float32))
    assert values_of("tensor", reference, (1 - reference.astype(np.int8)).astype(dtype)) == pytest.approx(expected)


@given(arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=32)), st.floats(0.5, 100))
def test_the_unit_of_a_tensor_does_not_matter(reference, scale):
    assume(reference.any())
    pair = reference.astype(np.float64), reference + 1.0
    scaled = [scale * array for array in pair]
    assert values_of("tensor", *scaled) == pytest.approx(values_of("tensor", *pair), rel=1e-3, abs=1e-3)
