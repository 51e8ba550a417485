"""Changed predictions by class and by sample, and thumbnails."""

import base64
import io
import sys

import numpy as np
import pytest
from PIL import Image

from deploykit.evaluate.parity.samples import encode_thumbnail, find_class_changes, sample_divergences

NAMES = ("cat", "dog", "emu")


def scores(*classes):
    """Logits with these classes as top-1."""
    return np.eye(3, dtype=np.float32)[list(classes)] * 5


def test_only_classes_with_changed_predictions_are_listed():
    changes = find_class_changes(scores(0, 0, 1, 2), scores(0, 1, 1, 2), (0, 0, 1, 2), NAMES)
    assert [(change.name, change.count, dict(change.predicted_as)) for change in changes] == [("cat", 2, {"dog": 1})]


def test_a_change_counts_correct_predictions_before_and_after():
    (change,) = find_class_changes(scores(0, 0, 1), scores(0, 2, 0), (0, 0, 0), NAMES)
    assert (change.reference_correct, change.candidate_correct) == (2, 2)
    assert change.predicted_as == {"emu": 1, "cat": 1}


def test_the_class_with_most_changes_is_first():
    changes = find_class_changes(scores(0, 1, 1, 1), scores(1, 0, 0, 2), (0, 1, 1, 1), NAMES)
    assert [change.name for change in changes] == ["dog", "cat"]
    assert list(changes[0].predicted_as.items()) == [("cat", 2), ("emu", 1)]


def test_samples_without_a_label_are_omitted():
    assert find_class_changes(scores(0, 1), scores(1, 0), (None, None), NAMES) == ()


def test_the_divergence_is_computed_per_sample():
    reference = scores(0, 1, 2)
    far = sample_divergences(reference, reference + np.array([[0], [3], [0]]) * np.eye(3)[:1], "logits")
    assert far[0] == far[2] == 0
    p, q = (np.exp(x) / np.exp(x).sum() for x in (reference[1].astype(float), reference[1] + [3, 0, 0]))
    assert far[1] == pytest.approx((p * np.log(p / q)).sum())


def test_probabilities_are_compared_as_they_are():
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    assert sample_divergences(p, q, "probabilities") == [pytest.approx(0.25 * np.log(2))]


def test_an_output_with_nan_has_the_largest_divergence():
    assert sample_divergences(scores(0), np.full((1, 3), np.nan), "logits") == [sys.float_info.max]


@pytest.mark.parametrize(
    ("shape", "size"), [((480, 640, 3), (96, 72)), ((200, 50, 3), (24, 96)), ((32, 32, 3), (32, 32))]
)
def test_a_thumbnail_is_a_jpeg_of_at_most_96_pixels_with_the_aspect_ratio_preserved(shape, size):
    picture = np.zeros(shape, np.uint8)
    picture[..., 0] = 200
    kind, _, content = encode_thumbnail(picture).partition(",")
    shown = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/jpeg;base64"
    assert (shown.format, shown.size) == ("JPEG", size)
    assert shown.getpixel((5, 5)) == pytest.approx((200, 0, 0), abs=6)


def test_a_preprocessed_input_has_no_thumbnail():
    assert encode_thumbnail(np.zeros((3, 8, 8), np.float32)) == ""
