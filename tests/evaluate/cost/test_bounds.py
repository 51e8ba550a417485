"""The default bounds separate broken from imprecise: INT8's noise passes, faults fail, whatever the kind."""

import drawn
import numpy as np
import pytest

from deploykit.core.values import CostFigure, OutputCost
from deploykit.evaluate.cost import find_cost_caveats, judge_cost, measure_cost
from deploykit.evaluate.cost.judge import BOUNDS

CLASSES = drawn.draw_class_logits()
MASKS = drawn.draw_mask_logits()
SEGMENTATION = drawn.draw_segmentation_logits()
DETECTIONS = drawn.draw_detections()
BOXES = DETECTIONS[:, :4].transpose(0, 2, 1)
EMBEDDINGS = drawn.draw_embeddings()
SCALARS = np.random.default_rng(1).normal(3, 0.5, (32, 1)).astype(np.float32)
TEXTS = drawn.draw_text_logits()
TENSOR = np.random.default_rng(2).normal(5, 1, (8, 12, 10)).astype(np.float32)


def judge(kind, reference, candidate) -> OutputCost:
    return judge_cost(measure_cost("out", kind, reference, candidate))


def sigmoid_of(array):
    return drawn.apply_sigmoid(array)


def softmax_of(array):
    return drawn.apply_softmax(array, 2)


IMPRECISE = {
    "classes at 10 dB": ("classes", CLASSES, drawn.add_noise(CLASSES, 10)),
    "a mask at 10 dB": ("map", sigmoid_of(MASKS), sigmoid_of(drawn.add_noise(MASKS, 10))),
    "a mask's logits at 10 dB": ("map", MASKS, drawn.add_noise(MASKS, 10)),
    "a mask whose probabilities are off by a tenth": (
        "map", sigmoid_of(MASKS), np.clip(0.9 * sigmoid_of(MASKS) + 0.05, 0, 1)
    ),
    "a segmentation at 10 dB": ("map", SEGMENTATION, drawn.add_noise(SEGMENTATION, 10)),
    "detections whose logits are off by 1": ("detections", DETECTIONS, drawn.draw_detections(noise=1.0)),
    "boxes": ("boxes", BOXES, drawn.draw_detections(noise=1.0)[:, :4].transpose(0, 2, 1)),
    "embeddings at 8 dB": ("embedding", EMBEDDINGS, drawn.add_noise(EMBEDDINGS, 8)),
    "scalars at 10 dB": ("scalar", SCALARS, drawn.add_noise(SCALARS, 10)),
    "texts at 10 dB": ("sequence", softmax_of(TEXTS), softmax_of(drawn.add_noise(TEXTS, 10))),
    "tensors at 8 dB": ("tensor", TENSOR, drawn.add_noise(TENSOR, 8)),
}  # fmt: skip

ANOTHER_TEXT = drawn.draw_text_logits(seed=5)

BROKEN = {
    "another network's classes": ("classes", CLASSES, drawn.draw_class_logits(seed=5)),
    "classes in another order": ("classes", CLASSES, np.roll(CLASSES, 1, axis=1)),
    "the same class always": ("classes", CLASSES, np.broadcast_to(CLASSES[:1], CLASSES.shape)),
    "another network's mask": ("map", sigmoid_of(MASKS), sigmoid_of(drawn.draw_mask_logits(seed=5))),
    "an empty mask": ("map", sigmoid_of(MASKS), 0 * MASKS),
    "a full mask": ("map", MASKS, np.abs(MASKS) + 1),
    "a mask where there is none": ("map", 0 * MASKS, sigmoid_of(-MASKS)),
    "a mask moved by a quarter": ("map", MASKS, np.roll(MASKS, 16, axis=3)),
    "another network's segmentation": ("map", SEGMENTATION, drawn.draw_segmentation_logits(seed=5)),
    "channels of a segmentation swapped": ("map", SEGMENTATION, np.roll(SEGMENTATION, 1, axis=1)),
    "background everywhere": ("map", SEGMENTATION, SEGMENTATION * 0 + np.eye(6)[0][:, None, None]),
    "another network's detections": ("detections", DETECTIONS, drawn.draw_detections(seed=5)),
    "classes of detections swapped": (
        "detections", DETECTIONS, np.concatenate([DETECTIONS[:, :4], np.roll(DETECTIONS[:, 4:], 1, axis=1)], 1)
    ),
    "axes of the boxes swapped": ("detections", DETECTIONS, DETECTIONS[:, [1, 0, 3, 2, *range(4, 9)]]),
    "no detection": ("detections", DETECTIONS, DETECTIONS * np.array([1.0] * 4 + [0.0] * 5)[:, None]),
    "corners for centers": (
        "boxes", BOXES, np.concatenate([BOXES[..., :2] - BOXES[..., 2:] / 2, BOXES[..., :2] + BOXES[..., 2:] / 2], -1)
    ),
    "boxes four times as large": ("boxes", BOXES, 4 * BOXES),
    "another network's embeddings": ("embedding", EMBEDDINGS, drawn.draw_embeddings(seed=5)),
    "embeddings in another order": ("embedding", EMBEDDINGS, np.roll(EMBEDDINGS, 1, axis=1)),
    "the mean embedding": ("embedding", EMBEDDINGS, np.broadcast_to(EMBEDDINGS.mean(axis=0), EMBEDDINGS.shape)),
    "another network's scalars": ("scalar", SCALARS, np.roll(SCALARS, 1, axis=0)),
    "the mean scalar": ("scalar", SCALARS, SCALARS * 0 + SCALARS.mean()),
    "scalars four times as large": ("scalar", SCALARS, 4 * SCALARS),
    "another network's texts": ("sequence", softmax_of(TEXTS), softmax_of(ANOTHER_TEXT)),
    "tokens in another order": ("sequence", TEXTS, np.concatenate([TEXTS[..., :1], np.roll(TEXTS[..., 1:], 1, 2)], 2)),
    "blanks only": ("sequence", TEXTS, TEXTS + 99 * np.eye(60)[0]),
    "another network's tensor": ("tensor", TENSOR, np.roll(TENSOR, 1, axis=0)),
    "the mean tensor": ("tensor", TENSOR, np.broadcast_to(TENSOR.mean(axis=0), TENSOR.shape)),
    "a dropped bias": ("tensor", TENSOR, TENSOR - 5),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "reference", "candidate"), IMPRECISE.values(), ids=IMPRECISE)
def test_noise_that_leaves_an_output_useful_passes(kind, reference, candidate):
    cost = judge(kind, reference, candidate)
    assert cost.violations == ()
    assert any(figure.passed for figure in cost.figures)


@pytest.mark.parametrize(("kind", "reference", "candidate"), BROKEN.values(), ids=BROKEN)
def test_a_fault_fails(kind, reference, candidate):
    assert judge(kind, reference, candidate).violations


EVERY_KIND = {kind: reference for kind, reference, _ in IMPRECISE.values()}


@pytest.mark.parametrize(("kind", "reference"), EVERY_KIND.items())
def test_the_reference_itself_passes(kind, reference):
    assert judge(kind, reference, reference.copy()).passed


def test_every_kind_is_drawn():
    assert set(EVERY_KIND) == set(BOUNDS)


@pytest.mark.parametrize(("kind", "reference"), EVERY_KIND.items())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_fails_with_the_worst_figures(kind, reference, value):
    candidate = np.array(reference, np.float32)
    candidate[0].flat[3 % candidate[0].size] = value
    cost = judge(kind, reference, candidate)
    assert cost.figures[0].name == "finite samples"
    assert cost.figures[0].value == 1 - 1 / len(reference)
    assert all(figure.passed is False for figure in cost.figures if figure.bound is not None)


@pytest.mark.parametrize(("kind", "reference"), EVERY_KIND.items())
def test_measuring_judges_nothing(kind, reference):
    figures = measure_cost("out", kind, reference, -reference).figures
    assert all(figure.bound is None and figure.passed is None and not figure.reason for figure in figures)


@pytest.mark.parametrize(
    ("kind", "name", "value", "low", "high", "passed"),
    [
        ("classes", "top-1 agreement", 0.65, 0.5, 0.71, True),
        ("classes", "top-1 agreement", 0.65, 0.6, 0.69, False),
        ("map", "changed pixels", 0.35, 0.29, 0.5, True),
        ("map", "changed pixels", 0.35, 0.31, 0.5, False),
        ("tensor", "SNR over the spread", 3.0, None, None, True),
        ("tensor", "SNR over the spread", 2.9, None, None, False),
        ("scalar", "median error", 0.51, None, None, False),
    ],
)
def test_a_figure_fails_where_its_whole_interval_is_beyond_the_bound(kind, name, value, low, high, passed):
    lower_is_better = name in ("changed pixels", "median error")
    [figure] = judge_cost(
        OutputCost("out", kind, (CostFigure(name, value, low, high, "share", lower_is_better=lower_is_better),))
    ).figures
    assert figure.passed is passed


@pytest.mark.parametrize(
    ("kind", "reference", "message"),
    [
        ("map", sigmoid_of(MASKS - 20), "output 'out' (map): 0 samples with a mask, which is too few to judge by"),
        ("detections", DETECTIONS[:2], "6 boxes of the reference, which is too few"),
        ("sequence", TEXTS * 0.1, "0 samples with text, which is too few"),
        ("classes", np.tile([[3.0, 1.0]], (16, 1)), "1 class chosen by the reference, which is too few to judge by"),
    ],
)
def test_samples_with_too_little_to_find_are_a_caveat(kind, reference, message):
    [caveat] = find_cost_caveats(measure_cost("out", kind, reference, reference))
    assert message in caveat


@pytest.mark.parametrize(("kind", "reference"), EVERY_KIND.items())
def test_samples_with_enough_to_find_are_no_caveat(kind, reference):
    assert find_cost_caveats(measure_cost("out", kind, reference, reference)) == ()


def test_every_bound_has_a_reason():
    assert all(bound.reason for bounds in BOUNDS.values() for bound in bounds.values())


@pytest.mark.parametrize("seed", range(20))
def test_sixteen_samples_drawn_badly_do_not_fail_a_network_that_agrees_on_85_percent(seed):
    agrees = np.random.default_rng(seed).random(16) < 0.85
    scores = np.eye(10)[np.arange(16) % 10]
    candidate = np.where(agrees[:, None], scores, np.roll(scores, 1, axis=1))
    assert judge("classes", scores, candidate).passed


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "the same shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "the same shape"),
        (np.array([[np.nan]]), np.array([[0.0]]), "the reference contains NaN"),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(reference, candidate, message):
    with pytest.raises(ValueError, match=message):
        measure_cost("out", "tensor", reference, candidate)
