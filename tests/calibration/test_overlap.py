"""Overlap of two sets is detected by pixels, independent of names."""

import numpy as np
import pytest
from PIL import Image

from deploykit.core.calibration import find_common_samples, open_set, select_samples
from deploykit.core.values import SampleRecord

A, B, C = (SampleRecord(name, name * 64) for name in "abc")


def rename_sample(sample, name):
    return SampleRecord(name, sample.sha256, sample.constant)


def test_sets_without_a_common_image_are_disjoint():
    assert find_common_samples([A, B], [C]) == ()


def test_equal_pixels_are_found_under_other_names():
    assert find_common_samples([A, B], [C, rename_sample(B, "copy of b")]) == (("b", "copy of b"),)


def test_equal_names_are_not_an_overlap():
    assert find_common_samples([A], [rename_sample(B, "a")]) == ()


def test_every_overlapping_sample_is_listed_once_with_its_first_duplicate():
    again = [rename_sample(A, "x"), rename_sample(A, "y")]
    assert find_common_samples([A, rename_sample(A, "a2")], again) == (("a", "x"), ("a", "y"))


def test_images_of_one_colour_may_coincide():
    black = SampleRecord("black", "0" * 64, constant=True)
    assert find_common_samples([black], [rename_sample(black, "night")]) == ()


def test_the_same_folder_overlaps_with_itself_and_its_copies_with_it(tmp_path):
    rng = np.random.default_rng(0)
    for folder, prefix in (("one", "x"), ("two", "y")):
        (tmp_path / folder).mkdir()
        for index in range(3):
            pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{prefix}{index}.png")
    (tmp_path / "two" / "copy.bmp").write_bytes(b"")
    Image.open(tmp_path / "one" / "x1.png").save(tmp_path / "two" / "copy.bmp")
    one, two = (
        select_samples(open_set(str(tmp_path / name)), count).digests for name, count in (("one", 3), ("two", 4))
    )
    assert find_common_samples(one, one) == (("x0.png", "x0.png"), ("x1.png", "x1.png"), ("x2.png", "x2.png"))
    assert find_common_samples(one, two) == (("x1.png", "copy.bmp"),)


@pytest.mark.parametrize("name", ["digits", "photos", "synthetic"])
def test_the_splits_of_named_sets_share_few_pixels_if_any(name):
    splits = {"digits": ("train", "heldout")}.get(name, ("calibration", "evaluation"))
    first, second = (select_samples(open_set(name, split), 100).digests for split in splits)
    assert find_common_samples(first, second) == ()
