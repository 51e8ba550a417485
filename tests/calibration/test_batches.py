"""Samples in batches: count, size and form, and their record and cache key."""

import os
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from deploykit.core import calibration
from deploykit.core.calibration import preprocess
from deploykit.core.calibration.batches import CHUNK, make_inputs, open_data
from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ModelSpec, Preprocessing
from deploykit.workflows import cache_keys

SPEC = Preprocessing(resize=16, height=16, width=12)
MODEL = ModelSpec("net", "family", "paper", {}, SPEC)
GRAPH_MODEL = ModelSpec("net", "family", "paper", {}, SPEC, preprocess_in="graph")


def open_samples(count, batch, name="synthetic"):
    return open_data(name, "evaluation", count, BatchRange(*batch))


@pytest.fixture
def folder(tmp_path):
    """Ten images of two classes."""
    rng = np.random.default_rng(0)
    for index in range(10):
        path = tmp_path / "pets" / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pets"


@pytest.mark.parametrize(
    ("batch", "size"),
    [((1, 8, 32), CHUNK), ((1, 1, 2), 2), ((1, 1, 1), 1), ((8, 8, 8), 8), ((6, 8, 32), 6)],
    ids=["free", "at most 2", "always 1", "always 8", "at least 6"],
)
def test_a_batch_has_a_size_that_the_graph_supports(batch, size):
    assert open_samples(16, batch).size == size


@pytest.mark.parametrize(("asked", "batches"), [(1, 1), (4, 1), (5, 2), (16, 4)])
def test_the_requested_number_of_samples_is_used(asked, batches):
    data = open_samples(asked, (1, 8, 32))
    assert (data.record.count, data.length) == (asked, batches)


def test_the_last_batch_contains_the_remainder():
    assert [len(batch.labels) for batch in open_samples(5, (1, 8, 32)).batches(MODEL)] == [CHUNK, 1]


@pytest.mark.parametrize(("asked", "used"), [(1, 6), (6, 6), (7, 12)])
def test_the_count_is_rounded_up_to_full_batches_if_no_smaller_batch_is_supported(asked, used):
    data = open_samples(asked, (6, 8, 32))
    assert (data.record.count, data.length) == (used, used // 6)


def test_the_count_is_rounded_down_where_the_set_ends(folder):
    data = open_samples(100, (4, 4, 32), str(folder))
    assert (data.record.count, data.length) == (8, 2)


@pytest.mark.parametrize(
    ("asked", "batch", "noted"),
    [
        (10, (1, 8, 32), []),
        (11, (1, 8, 32), ["pets has 10 samples, fewer than the 11 requested."]),
        (9, (4, 4, 32), ["pets has 8 samples in whole batches of 4, fewer than the 9 requested."]),
        (8, (4, 4, 32), []),
    ],
    ids=["as many as there are", "more than there are", "more than whole batches hold", "whole batches"],
)
def test_fewer_samples_than_requested_are_noted(folder, asked, batch, noted):
    notes = []
    data = open_data(str(folder), "evaluation", asked, BatchRange(*batch), note=notes.append)
    assert notes == noted
    assert data.record.count == len(data.digests) == min(asked, 10 // batch[0] * batch[0])


def test_a_set_smaller_than_one_batch_is_refused(folder):
    with pytest.raises(InputError, match=r"has 10 samples, and one batch of this graph needs 11\. Give more images"):
        open_samples(4, (11, 11, 11), str(folder))


def test_batches_contain_every_sample_once_in_order(folder):
    data = open_samples(8, (1, 8, 32), str(folder))
    images = [data.samples[index] for index in range(8)]
    batches = list(data.batches(MODEL))
    assert [len(batch.inputs["input"]) for batch in batches] == [4, 4]
    assert np.array_equal(
        np.concatenate([batch.inputs["input"] for batch in batches]),
        preprocess.preprocess_batch([sample.image for sample in images], SPEC),
    )
    assert [label for batch in batches for label in batch.labels] == [sample.label for sample in images]


def test_unlabelled_samples_are_marked():
    assert next(open_samples(4, (1, 8, 32)).batches(MODEL)).labels == (None,) * 4


def test_progress_is_reported_after_each_batch():
    reported = []
    batches = open_samples(8, (1, 8, 32)).batches(MODEL, lambda: reported.append(None))
    next(batches)
    assert reported == []
    next(batches)
    assert len(reported) == 1
    assert next(batches, None) is None
    assert len(reported) == 2


def test_the_record_covers_used_samples_only():
    data = open_samples(5, (1, 8, 32))
    assert data.record == calibration.record_samples(
        calibration.select_subset(calibration.open_set("synthetic", "evaluation"), 5)
    )
    assert (data.record.split, data.record.real) == ("evaluation", False)


def test_calibration_and_evaluation_are_different_samples():
    first, second = (open_data("synthetic", purpose, 8, BatchRange()) for purpose in ("calibration", "evaluation"))
    assert {sample.name for sample in first.samples}.isdisjoint(sample.name for sample in second.samples)


def test_sample_selection_is_reproducible():
    assert open_samples(8, (1, 8, 32)).record == open_samples(8, (1, 8, 32)).record


def test_another_seed_selects_other_samples_and_is_recorded():
    first, second = (open_data("synthetic", "evaluation", 8, BatchRange(), seed=seed) for seed in (0, 1))
    assert {sample.name for sample in first.samples} != {sample.name for sample in second.samples}
    assert (first.record.seed, second.record.seed) == (0, 1)


def test_the_record_lists_every_sample():
    data = open_samples(8, (1, 8, 32))
    assert [digest.name for digest in data.digests] == [data.samples[index].name for index in range(8)]


@pytest.mark.parametrize(("count", "batch", "read"), [(2, (1, 1, 8), 2), (500, (1, 1, 8), 10), (500, (4, 4, 4), 8)])
def test_progress_counts_the_samples_that_are_read_and_not_those_asked_for(folder, count, batch, read):
    counts = []

    @contextmanager
    def reading(total):
        done = []
        yield lambda: done.append(None)
        counts.append((len(done), total))

    open_data(str(folder), "evaluation", count, BatchRange(*batch), reading=reading)
    assert counts == [(read, read)]


def test_a_folder_overlaps_with_itself(folder):
    first, second = (open_data(str(folder), purpose, 8, BatchRange()) for purpose in ("calibration", "evaluation"))
    assert len(calibration.find_common_samples(first.digests, second.digests)) == 8


def test_images_of_one_colour_are_counted(folder):
    for index in (2, 4):
        Image.new("RGB", (20, 30)).save(folder / "cat" / f"{index}.png")
    data = open_samples(8, (1, 8, 32), str(folder))
    black = [sample.name for sample in data.samples if not sample.image.any()]
    assert data.record.constant == len(black) > 0


def test_damaged_images_are_skipped_and_counted(tmp_path):
    for index in range(101):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index:03}.png")
    (tmp_path / "050.png").write_bytes(b"damaged")
    data = open_samples(101, (1, 8, 32), str(tmp_path))
    assert (data.record.count, data.record.skipped) == (100, 1)
    assert sum(len(batch.labels) for batch in data.batches(MODEL)) == 100


def test_too_many_damaged_images_are_refused(folder):
    (folder / "cat" / "0.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match="of the 8 samples requested from 'pets' are damaged, more than 1%"):
        open_samples(8, (1, 8, 32), str(folder))


def test_an_error_is_raised_in_its_batch(folder):
    data = open_samples(8, (1, 8, 32), str(folder))
    (folder / data.samples.items[5]).unlink()
    batches = data.batches(MODEL)
    assert len(next(batches).labels) == 4
    with pytest.raises(InputError, match="there is no file"):
        next(batches)


# ── Identity of the data in a cache key ───────────────────────────────────────────────────────────────────────────────


def list_of(folder):
    path = folder.parent / "pets.lst"
    path.write_text("pets/cat/0.png\npets/dog/1.png\n")
    return path


@pytest.mark.parametrize("name", ["x.npy", "x.bin", "x.tar"])
def test_a_single_file_is_identified_by_size_and_time(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"1")
    before = cache_keys.data_key(str(path))
    path.write_bytes(b"12")
    assert cache_keys.data_key(str(path)) != before


def test_every_shard_of_a_pattern_counts(tmp_path):
    for number in (0, 1):
        (tmp_path / f"s{number}.tar").write_bytes(b"1")
    before = cache_keys.data_key(str(tmp_path / "s{0..1}.tar"))
    (tmp_path / "s1.tar").write_bytes(b"12")
    assert cache_keys.data_key(str(tmp_path / "s{0..1}.tar")) != before


def test_a_list_is_identified_by_its_text(folder):
    path = list_of(folder)
    before, stat = cache_keys.data_key(str(path)), path.stat()
    path.write_text("pets/dog/1.png\npets/cat/0.png\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache_keys.data_key(str(path)) != before


def test_a_list_is_identified_by_its_images_too(folder):
    path = list_of(folder)
    before = cache_keys.data_key(str(path))
    Image.new("RGB", (7, 7)).save(folder / "dog" / "1.png")
    assert cache_keys.data_key(str(path)) != before


def test_a_list_is_not_identified_by_other_images(folder):
    path = list_of(folder)
    before = cache_keys.data_key(str(path))
    Image.new("RGB", (7, 7)).save(folder / "dog" / "3.png")
    assert cache_keys.data_key(str(path)) == before


# ── Inputs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

IMAGES = [np.random.default_rng(seed).integers(0, 256, (20, 30 + seed, 3), dtype=np.uint8) for seed in range(2)]


def test_a_network_that_is_fed_planes_gets_them_normalised():
    planes = make_inputs(IMAGES, MODEL)
    assert (planes.shape, planes.dtype) == ((2, 3, 16, 12), np.float32)
    assert np.array_equal(planes[1], preprocess.preprocess_image(IMAGES[1], SPEC))


def test_a_graph_with_preprocessing_gets_the_cropped_pixels():
    pixels = make_inputs(IMAGES, GRAPH_MODEL)
    assert (pixels.shape, pixels.dtype) == ((2, 16, 12, 3), np.uint8)
    assert np.array_equal(pixels[1], preprocess.crop_image(IMAGES[1], SPEC))


PLANES = np.random.default_rng(0).normal(size=(8, 3, 16, 12)).astype(np.float32)


def test_planes_are_inputs_already(tmp_path):
    np.save(tmp_path / "planes.npy", PLANES)
    data = open_samples(8, (1, 8, 32), str(tmp_path / "planes.npy"))
    assert np.array_equal(np.concatenate([batch.inputs["input"] for batch in data.batches(MODEL)]), PLANES)


def test_planes_of_another_size_are_refused():
    with pytest.raises(InputError, match="preprocessed to 3×16×11, and net takes 3×16×12"):
        make_inputs([PLANES[0, :, :, :11]], MODEL)


def test_a_graph_with_preprocessing_refuses_preprocessed_planes():
    with pytest.raises(InputError, match=r"this graph of net normalises .* --preprocess-in host"):
        make_inputs([PLANES[0]], GRAPH_MODEL)
