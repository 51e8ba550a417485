"""Selection of decodable samples: skipping, replacement, and the limit of damage."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deploykit.core.calibration import (
    LazyDataset,
    UndecodableImage,
    open_set,
    record_samples,
    select_samples,
    select_subset,
)
from deploykit.core.calibration.selection import select_indices
from deploykit.core.errors import InputError
from deploykit.core.values import Sample


def shade(index):
    return Sample(name=f"shade-{index}", image=np.array([[[index % 256] * 3, [index // 256] * 3]], np.uint8))


def shades(size, damaged=(), error=UndecodableImage):
    """A set in which the items in `damaged` cannot be decoded."""

    def make(index):
        if index in damaged:
            raise error(f"'{index}.png' cannot be decoded.", "")
        return shade(index)

    return LazyDataset(name="shades", split="all", real=True, classes=(), items=range(size), load_sample=make)


def test_a_choice_without_damage_is_the_subset():
    selection = select_samples(shades(300), 100, seed=3)
    chosen = select_subset(shades(300), 100, seed=3)
    assert list(selection.samples.items) == list(chosen.items)
    assert selection.record == record_samples(chosen)


def test_the_record_contains_the_seed():
    assert select_samples(shades(300), 100, seed=3).record.seed == 3


def test_the_digests_are_the_samples_in_order():
    selection = select_samples(shades(300), 100)
    assert [digest.name for digest in selection.digests] == [sample.name for sample in selection.samples]


def test_damaged_images_are_replaced_at_the_end_by_the_next_in_the_ranking():
    first = select_indices(range(400), 200, seed=0)
    damaged = {first[0], first[7]}
    further = [index for index in select_indices(range(400), 202, seed=0) if index not in first]
    selection = select_samples(shades(400, damaged), 200)
    assert list(selection.samples.items) == [index for index in first if index not in damaged] + further


def test_a_replacement_may_be_damaged_too():
    first = select_indices(range(400), 200, seed=0)
    further = [index for index in select_indices(range(400), 201, seed=0) if index not in first]
    selection = select_samples(shades(400, {first[0], *further}), 200)
    assert (selection.record.count, selection.record.skipped) == (200, 2)


def test_skipped_images_are_counted():
    first = select_indices(range(400), 200, seed=0)
    assert select_samples(shades(400, first[:2]), 200).record.skipped == 2


def test_images_outside_the_selection_are_not_read():
    outside = set(range(400)) - set(select_indices(range(400), 200, seed=0))
    assert select_samples(shades(400, outside), 200).record.skipped == 0


def test_at_the_end_of_the_set_the_count_is_reduced_to_full_batches():
    selection = select_samples(shades(400, {5}), 400, multiple=4)
    assert (selection.record.count, selection.record.skipped, len(selection.digests), len(selection.samples)) == (
        396,
        1,
        396,
        396,
    )


def test_a_reduced_record_covers_the_remaining_samples():
    selection = select_samples(shades(400, {5}), 400, multiple=4)
    assert selection.record.sha256 == record_samples(selection.samples).sha256


def test_a_set_with_too_few_undamaged_images_for_a_batch_is_refused():
    with pytest.raises(InputError, match="'shades' has 199 valid samples, and 200 are needed"):
        select_samples(shades(200, {5}), 200, multiple=200)


def test_one_in_a_hundred_is_skipped():
    assert select_samples(shades(100, {5}), 100).record.skipped == 1


def test_more_than_one_in_a_hundred_is_refused_with_the_first_and_their_number():
    with pytest.raises(InputError) as caught:
        select_samples(shades(300, {7, 50, 99, 200, 250}), 300)
    message = str(caught.value)
    assert "5 of the 300 samples requested from 'shades' are damaged, more than 1%" in message
    assert "'7.png' cannot be decoded. '50.png' cannot be decoded. '99.png' cannot be decoded. And 2 more." in message


def test_a_small_set_tolerates_no_damaged_sample():
    with pytest.raises(InputError, match="1 of the 99 samples"):
        select_samples(shades(99, {5}), 99)


def test_any_other_error_is_raised_and_not_skipped():
    with pytest.raises(InputError, match=r"'5\.png'"):
        select_samples(shades(500, {5}, error=InputError), 500)


def test_every_sample_is_decoded_once():
    created = []
    source = shades(300)
    select_samples(replace(source, load_sample=lambda index: created.append(index) or shade(index)), 300)
    assert sorted(created) == list(range(300))


def test_progress_is_reported_for_every_undamaged_sample():
    reported = []
    select_samples(shades(200, {5}), 200, advance=lambda: reported.append(None))
    assert len(reported) == 199


@pytest.mark.parametrize("count", [0, 11])
def test_a_count_above_the_size_of_the_set_is_refused(count):
    with pytest.raises(InputError, match=f"{count} samples were requested"):
        select_samples(shades(10), count)


def test_damaged_files_in_a_folder_are_skipped(tmp_path):
    for index in range(120):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(tmp_path / f"{index:03}.png")
    (tmp_path / "050.png").write_bytes((tmp_path / "050.png").read_bytes()[:40])
    selection = select_samples(open_set(str(tmp_path)), 120)
    assert (selection.record.count, selection.record.skipped) == (119, 1)


def test_a_file_that_vanished_is_not_a_damaged_one(tmp_path):
    for index in range(120):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{index:03}.png")
    samples = open_set(str(tmp_path))
    (tmp_path / "050.png").unlink()
    with pytest.raises(InputError, match=r"no file .*050\.png"):
        select_samples(samples, 120)
