"""Draws that are equal on every machine, and receipts that depend on the data only."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.calibration import LazyDataset, open_set, record_samples, select_subset
from deploykit.core.calibration.receipt import examine_sample
from deploykit.core.calibration.selection import select_indices
from deploykit.core.errors import InputError
from deploykit.core.values import Sample


def shade(index):
    return Sample(name=f"shade-{index}", image=np.full((2, 3, 3), index, np.uint8), label=index % 2)


SHADES = LazyDataset(
    name="shades", split="all", real=False, classes=("even", "odd"), items=range(200), load_sample=shade
)


@given(size=st.integers(1, 60), share=st.floats(0, 1), seed=st.integers())
def test_a_draw_is_without_repetition_ascending_and_repeatable(size, share, seed):
    count = round(size * share)
    drawn = select_indices(range(size), count, seed)
    assert len(set(drawn)) == count
    assert drawn == sorted(drawn)
    assert drawn == select_indices(reversed(range(size)), count, seed)


def test_a_draw_is_the_same_everywhere():
    assert select_indices(range(100), 6, seed=0) == [15, 44, 46, 76, 87, 99]


def test_another_seed_draws_other_samples():
    assert select_indices(range(100), 6, seed=0) != select_indices(range(100), 6, seed=1)


def test_a_larger_draw_contains_the_smaller_one():
    assert set(select_indices(range(100), 6, seed=0)) < set(select_indices(range(100), 12, seed=0))


def test_a_subset_is_a_set_of_the_chosen_samples():
    chosen = select_subset(SHADES, 6)
    assert [sample.name for sample in chosen] == [SHADES[index].name for index in select_indices(range(200), 6, seed=0)]
    assert (chosen.name, chosen.split, chosen.classes) == (SHADES.name, SHADES.split, SHADES.classes)


def test_a_subset_of_a_subset_is_one_of_the_set():
    assert {sample.name for sample in select_subset(select_subset(SHADES, 50), 5)} <= {
        sample.name for sample in select_subset(SHADES, 50)
    }


@pytest.mark.parametrize("count", [0, -1, 201])
def test_a_count_above_the_size_of_the_set_is_refused(count):
    with pytest.raises(InputError, match=f"{count} samples were requested, and 'shades' .* has 200"):
        select_subset(SHADES, count)


def test_samples_are_decoded_on_access_only():
    def refuse(index):
        raise AssertionError(index)

    assert len(select_subset(replace(SHADES, load_sample=refuse), 100)) == 100


def test_an_index_past_the_end_is_an_index_error():
    with pytest.raises(IndexError):
        SHADES[200]


def test_a_receipt_describes_the_used_samples():
    receipt = record_samples(select_subset(SHADES, 5))
    assert (receipt.name, receipt.split, receipt.count, receipt.real, receipt.labelled) == (
        "shades",
        "all",
        5,
        False,
        True,
    )


def test_a_receipt_can_be_built_while_samples_stream():
    assert record_samples(SHADES, iter(SHADES)) == record_samples(SHADES)


def test_the_receipt_of_a_subset_differs_from_the_sets():
    assert record_samples(select_subset(SHADES, 199)).sha256 != record_samples(SHADES).sha256


FIRST = shade(0)  # as SHADES[0], which mypy cannot know to be an image
BASE = [SHADES[0], SHADES[1]]
OTHERS = {
    "pixels": [Sample("a", np.full((2, 3, 3), 9, np.uint8), 0), SHADES[1]],
    "shape": [Sample("a", FIRST.image.reshape(3, 2, 3), 0), SHADES[1]],
    "label": [Sample("a", FIRST.image, 1), SHADES[1]],
    "no label": [Sample("a", FIRST.image, None), SHADES[1]],
    "order": BASE[::-1],
    "count": BASE[:1],
}


@pytest.mark.parametrize("change", OTHERS)
def test_the_digest_changes_with(change):
    assert record_samples(SHADES, OTHERS[change]).sha256 != record_samples(SHADES, BASE).sha256


def test_the_digest_does_not_change_with_names_or_strides():
    spread = np.repeat(SHADES[0].image, 2, axis=1)[:, ::2]
    assert (
        record_samples(SHADES, [Sample("renamed", spread, 0), SHADES[1]]).sha256 == record_samples(SHADES, BASE).sha256
    )


def test_photos_decode_the_same_twice():
    photos = select_subset(open_set("photos", "evaluation"), 20)
    assert record_samples(photos) == record_samples(photos)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_receipt_records_the_seed_of_the_draw(seed):
    assert record_samples(select_subset(SHADES, 5, seed)).seed == seed


def test_samples_are_labelled_where_every_one_is():
    assert record_samples(SHADES, BASE).labelled
    assert not record_samples(SHADES, [*BASE, Sample("a", SHADES[0].image)]).labelled
    assert not record_samples(SHADES, []).labelled


PLANES = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


def test_network_inputs_have_a_digest_of_their_values():
    assert (
        record_samples(SHADES, [Sample("a", PLANES)]).sha256
        == record_samples(SHADES, [Sample("b", PLANES.copy())]).sha256
    )
    assert (
        record_samples(SHADES, [Sample("a", PLANES)]).sha256 != record_samples(SHADES, [Sample("a", PLANES + 1)]).sha256
    )


def test_network_inputs_and_an_image_with_equal_bytes_have_different_digests():
    as_bytes = PLANES.view(np.uint8).reshape(4, 20, 3)
    assert examine_sample(Sample("a", PLANES)).sha256 != examine_sample(Sample("a", as_bytes)).sha256


def test_a_sample_digest_excludes_name_and_label():
    assert (
        examine_sample(Sample("a", SHADES[0].image, 0)).sha256 == examine_sample(Sample("b", SHADES[0].image, 1)).sha256
    )


def test_a_samples_digest_changes_with_pixels_and_shape():
    images = [SHADES[0].image, SHADES[1].image, SHADES[0].image.reshape(3, 2, 3)]
    assert len({examine_sample(Sample("a", image)).sha256 for image in images}) == 3


ONE_COLOUR = np.tile(np.array([10, 20, 30], np.uint8), (4, 5, 1))
LAST_PIXEL_DIFFERS = ONE_COLOUR.copy()
LAST_PIXEL_DIFFERS[-1, -1, 2] += 1


@pytest.mark.parametrize(
    ("image", "constant"),
    [
        (np.zeros((4, 5, 3), np.uint8), True),
        (ONE_COLOUR, True),
        (LAST_PIXEL_DIFFERS, False),
        (np.tile(np.arange(5, dtype=np.uint8)[:, None, None], (1, 4, 3)), False),
        (np.tile(np.array([1, 2, 3], np.float32)[:, None, None], (1, 4, 5)), True),
        (PLANES, False),
    ],
    ids=["black", "one colour", "last pixel differs", "even rows", "even planes", "planes"],
)
def test_an_image_of_one_colour_is_reported(image, constant):
    assert examine_sample(Sample("a", image)).constant is constant


def test_a_receipt_counts_images_of_one_colour():
    assert record_samples(SHADES, [Sample("a", PLANES), Sample("b", ONE_COLOUR), SHADES[0]]).constant == 2
