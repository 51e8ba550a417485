"""The kind of an output is inferred from head, shape and values, and what the user says comes first."""

import drawn
import numpy as np
import pytest

from deploykit.core.errors import InputError, UsageError
from deploykit.evaluate.cost import infer_kind, resolve_kinds, split_parts

RNG = np.random.default_rng(0)
FEATURES = np.maximum(0, RNG.normal(size=(4, 32, 7, 7))).astype(np.float32)
PHOTOGRAPHS = drawn.smooth_images(RNG.uniform(size=(2, 3, 32, 32)))
UNIT = drawn.draw_embeddings() / np.linalg.norm(drawn.draw_embeddings(), axis=1, keepdims=True)
DETECTIONS = drawn.draw_detections()
ACROSS = DETECTIONS.copy()
ACROSS[:, 0, 7] = -3  # a center outside the image
CORNERS = np.concatenate([DETECTIONS[:, :2] - DETECTIONS[:, 2:4] / 2, DETECTIONS[:, :2] + DETECTIONS[:, 2:4] / 2], 1)
CORNERS = CORNERS.transpose(0, 2, 1)  # N×A×4, some of them negative

CASES = {
    "logits of a classifier": ("logits", drawn.draw_class_logits(), "classes"),
    "logits N×C×1×1": ("logits", drawn.draw_class_logits()[..., None, None], "classes"),
    "probabilities of a file": ("tensors", drawn.apply_softmax(drawn.draw_class_logits(), 1), "classes"),
    "chosen classes": ("tensors", np.array([3, 1, 2]), "classes"),
    "a vector of a file": ("tensors", RNG.normal(size=(8, 20)), "tensor"),
    "a mask": ("tensors", drawn.apply_sigmoid(drawn.draw_mask_logits()), "map"),
    "a mask's logits": ("logits", drawn.draw_mask_logits(), "map"),
    "a depth map in meters": ("tensors", RNG.uniform(1, 80, (2, 1, 16, 16)), "tensor"),
    "a segmentation": ("logits", drawn.draw_segmentation_logits(), "map"),
    "a segmentation's probabilities": ("tensors", drawn.apply_softmax(drawn.draw_segmentation_logits(), 1), "map"),
    "classes per pixel": ("tensors", drawn.draw_segmentation_logits().argmax(axis=1), "map"),
    "a photograph of bytes": ("tensors", (255 * PHOTOGRAPHS[:, 0]).astype(np.uint8), "tensor"),
    "rectified features": ("tensors", FEATURES, "tensor"),
    "features of both signs": ("tensors", RNG.normal(size=(4, 32, 7, 7)), "tensor"),
    "an image": ("tensors", PHOTOGRAPHS, "tensor"),
    "YOLOv8": ("tensors", DETECTIONS, "detections"),
    "YOLOv8, anchors first": ("tensors", DETECTIONS.transpose(0, 2, 1), "detections"),
    "YOLOv5 with a box across the left edge": ("tensors", ACROSS.transpose(0, 2, 1), "detections"),
    "faces, one class": ("tensors", ACROSS[:, :5], "detections"),
    "corners across the left edge": ("tensors", CORNERS, "boxes"),
    "heatmaps over time": ("tensors", RNG.normal(size=(2, 9, 400)), "tensor"),
    "boxes": ("tensors", DETECTIONS[:, :4].transpose(0, 2, 1), "boxes"),
    "four numbers of both signs": ("tensors", RNG.normal(size=(2, 50, 4)), "tensor"),
    "an embedding": ("embedding", drawn.draw_embeddings(), "embedding"),
    "an embedding N×C×1×1": ("embedding", drawn.draw_embeddings()[..., None, None], "embedding"),
    "rows of length 1": ("tensors", UNIT, "embedding"),
    "an embedding of 7 numbers": ("embedding", drawn.draw_embeddings(size=7), "tensor"),
    "a score N": ("tensors", RNG.normal(size=9), "scalar"),
    "a score N×1": ("logits", RNG.normal(size=(9, 1)), "scalar"),
    "CTC probabilities": ("tensors", drawn.apply_softmax(drawn.draw_text_logits(), 2), "sequence"),
    "CTC logits": ("tensors", drawn.draw_text_logits(), "sequence"),
    "chosen tokens": ("tensors", RNG.integers(0, 9, (4, 12)), "sequence"),
    "logarithms of CTC probabilities": (
        "tensors", np.log(drawn.apply_softmax(drawn.draw_text_logits(), 2) + 1e-30), "sequence"
    ),
    "hidden states with a huge dimension": ("tensors", RNG.normal(size=(4, 50, 96)) + 60 * np.eye(96)[5], "tensor"),
    "hidden states": ("tensors", RNG.normal(size=(4, 50, 96)), "tensor"),
    "video": ("tensors", RNG.normal(size=(2, 3, 4, 8, 8)), "tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("head", "array", "kind"), CASES.values(), ids=CASES)
def test_the_kind_is_inferred(head, array, kind):
    assert infer_kind(array, head) == kind


OUTPUTS = {"pred": DETECTIONS, "emb": UNIT}


def test_what_the_user_says_comes_first():
    assert resolve_kinds(OUTPUTS, "tensors", {"emb": "tensor"}) == {"pred": "detections", "emb": "tensor"}


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"emb": "vector"}, UsageError, "unknown kind of output 'vector'; choose from boxes, classes"),
        ({"prediction": "boxes"}, InputError, "The network's outputs are pred, emb."),
        (
            {"emb": "map"},
            InputError,
            "output 'emb' cannot be of the kind map: its shape is N×64, and map needs N×C×H×W",
        ),
        ({"pred": "classes"}, InputError, "classes needs N×C or N×C×1×1"),
        ({"emb": "scalar"}, InputError, "scalar needs N or N×1"),
        ({"pred": "boxes"}, InputError, "boxes needs N×A×4"),
        ({"emb": "detections"}, InputError, "detections needs"),
        ({"emb": "sequence"}, InputError, "sequence needs N×T×V"),
    ],
)
def test_a_kind_that_cannot_be_is_refused_with_the_choices(said, error, message):
    with pytest.raises(error) as refusal:
        resolve_kinds(OUTPUTS, "tensors", said)
    assert message in str(refusal.value)


@pytest.mark.parametrize("array", [DETECTIONS, DETECTIONS.transpose(0, 2, 1)])
def test_detections_are_split_into_boxes_and_scores(array):
    parts = split_parts("detections", array)
    np.testing.assert_array_equal(parts["boxes"], DETECTIONS[:, :4].transpose(0, 2, 1))
    np.testing.assert_array_equal(parts["scores"], DETECTIONS[:, 4:].transpose(0, 2, 1))


def test_other_kinds_are_one_part():
    assert list(split_parts("tensor", UNIT)) == [""]
