"""Samples in whole batches: how many, how large, in which form, and what the record and the key say of them."""

import os

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


def opened(count, batch, name="synthetic"):
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
def test_a_batch_is_of_a_size_that_the_graph_takes(batch, size):
    assert opened(16, batch).size == size


@pytest.mark.parametrize(("asked", "batches"), [(1, 1), (4, 1), (5, 2), (16, 4)])
def test_as_many_are_used_as_were_asked_for(asked, batches):
    data = opened(asked, (1, 8, 32))
    assert (data.record.count, data.length) == (asked, batches)


def test_the_last_batch_holds_what_is_left():
    assert [len(batch.labels) for batch in opened(5, (1, 8, 32)).batches(MODEL)] == [CHUNK, 1]


@pytest.mark.parametrize(("asked", "used"), [(1, 6), (6, 6), (7, 12)])
def test_the_count_is_rounded_up_to_whole_batches_where_no_smaller_one_fits(asked, used):
    data = opened(asked, (6, 8, 32))
    assert (data.record.count, data.length) == (used, used // 6)


def test_the_count_is_rounded_down_where_the_set_ends(folder):
    data = opened(100, (4, 4, 32), str(folder))
    assert (data.record.count, data.length) == (8, 2)


def test_a_set_smaller_than_one_batch_is_refused(folder):
    with pytest.raises(InputError, match=r"has 10 samples, and one batch of this graph needs 11\. Give more images"):
        opened(4, (11, 11, 11), str(folder))


def test_batches_hold_every_sample_once_in_order(folder):
    data = opened(8, (1, 8, 32), str(folder))
    images = [data.samples[index] for index in range(8)]
    batches = list(data.batches(MODEL))
    assert [len(batch.inputs["input"]) for batch in batches] == [4, 4]
    assert np.array_equal(
        np.concatenate([batch.inputs["input"] for batch in batches]),
        preprocess.preprocess_batch([sample.image for sample in images], SPEC),
    )
    assert [label for batch in batches for label in batch.labels] == [sample.label for sample in images]


def test_unlabelled_samples_say_so():
    assert next(opened(4, (1, 8, 32)).batches(MODEL)).labels == (None,) * 4


def test_progress_is_told_of_each_batch_behind_it():
    told = []
    batches = opened(8, (1, 8, 32)).batches(MODEL, lambda: told.append(None))
    next(batches)
    assert told == []
    next(batches)
    assert len(told) == 1
    assert next(batches, None) is None
    assert len(told) == 2


def test_the_record_is_of_what_is_used_only():
    data = opened(5, (1, 8, 32))
    assert data.record == calibration.record_samples(
        calibration.select_subset(calibration.open_set("synthetic", "evaluation"), 5)
    )
    assert (data.record.split, data.record.real) == ("evaluation", False)


def test_calibration_and_evaluation_are_different_samples():
    first, second = (open_data("synthetic", purpose, 8, BatchRange()) for purpose in ("calibration", "evaluation"))
    assert {sample.name for sample in first.samples}.isdisjoint(sample.name for sample in second.samples)


def test_the_same_samples_are_taken_every_time():
    assert opened(8, (1, 8, 32)).record == opened(8, (1, 8, 32)).record


def test_another_seed_takes_other_samples_and_says_so():
    first, second = (open_data("synthetic", "evaluation", 8, BatchRange(), seed=seed) for seed in (0, 1))
    assert {sample.name for sample in first.samples} != {sample.name for sample in second.samples}
    assert (first.record.seed, second.record.seed) == (0, 1)


def test_the_record_is_there_sample_by_sample():
    data = opened(8, (1, 8, 32))
    assert [digest.name for digest in data.digests] == [data.samples[index].name for index in range(8)]


def test_progress_is_told_of_each_sample_of_the_record():
    told = []
    open_data("synthetic", "evaluation", 8, BatchRange(), advance=lambda: told.append(None))
    assert len(told) == 8


def test_a_folder_is_seen_to_overlap_with_itself(folder):
    first, second = (open_data(str(folder), purpose, 8, BatchRange()) for purpose in ("calibration", "evaluation"))
    assert len(calibration.find_common_samples(first.digests, second.digests)) == 8


def test_images_of_one_colour_are_counted(folder):
    for index in (2, 4):
        Image.new("RGB", (20, 30)).save(folder / "cat" / f"{index}.png")
    data = opened(8, (1, 8, 32), str(folder))
    black = [sample.name for sample in data.samples if not sample.image.any()]
    assert data.record.constant == len(black) > 0


def test_damaged_images_are_skipped_and_counted_and_batches_are_of_the_others(tmp_path):
    for index in range(101):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index:03}.png")
    (tmp_path / "050.png").write_bytes(b"damaged")
    data = opened(101, (1, 8, 32), str(tmp_path))
    assert (data.record.count, data.record.skipped) == (100, 1)
    assert sum(len(batch.labels) for batch in data.batches(MODEL)) == 100


def test_too_much_damage_is_refused(folder):
    (folder / "cat" / "0.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match="of the 8 samples requested from 'pets' are damaged, more than 1%"):
        opened(8, (1, 8, 32), str(folder))


def test_an_error_is_raised_in_its_batch(folder):
    data = opened(8, (1, 8, 32), str(folder))
    (folder / data.samples.items[5]).unlink()
    batches = data.batches(MODEL)
    assert len(next(batches).labels) == 4
    with pytest.raises(InputError, match="there is no file"):
        next(batches)


# ── What stands for the data in a key ───────────────────────────────────────────────────────────────────────────────


def list_of(folder):
    path = folder.parent / "pets.lst"
    path.write_text("pets/cat/0.png\npets/dog/1.png\n")
    return path


@pytest.mark.parametrize("name", ["x.npy", "x.bin", "x.tar"])
def test_a_single_file_counts_by_its_size_and_time(tmp_path, name):
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


def test_a_list_counts_by_its_words(folder):
    path = list_of(folder)
    before, stat = cache_keys.data_key(str(path)), path.stat()
    path.write_text("pets/dog/1.png\npets/cat/0.png\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache_keys.data_key(str(path)) != before


def test_a_list_counts_by_the_images_in_it(folder):
    path = list_of(folder)
    before = cache_keys.data_key(str(path))
    Image.new("RGB", (7, 7)).save(folder / "dog" / "1.png")
    assert cache_keys.data_key(str(path)) != before


def test_a_list_does_not_count_by_other_images(folder):
    path = list_of(folder)
    before = cache_keys.data_key(str(path))
    Image.new("RGB", (7, 7)).save(folder / "dog" / "3.png")
    assert cache_keys.data_key(str(path)) == before


# ── Inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

IMAGES = [np.random.default_rng(seed).integers(0, 256, (20, 30 + seed, 3), dtype=np.uint8) for seed in range(2)]


def test_a_network_that_is_fed_planes_gets_them_normalised():
    planes = make_inputs(IMAGES, MODEL)
    assert (planes.shape, planes.dtype) == ((2, 3, 16, 12), np.float32)
    assert np.array_equal(planes[1], preprocess.preprocess_image(IMAGES[1], SPEC))


def test_a_graph_that_normalises_by_itself_gets_the_cropped_pixels():
    pixels = make_inputs(IMAGES, GRAPH_MODEL)
    assert (pixels.shape, pixels.dtype) == ((2, 16, 12, 3), np.uint8)
    assert np.array_equal(pixels[1], preprocess.crop_image(IMAGES[1], SPEC))


PLANES = np.random.default_rng(0).normal(size=(8, 3, 16, 12)).astype(np.float32)


def test_planes_are_inputs_already(tmp_path):
    np.save(tmp_path / "planes.npy", PLANES)
    data = opened(8, (1, 8, 32), str(tmp_path / "planes.npy"))
    assert np.array_equal(np.concatenate([batch.inputs["input"] for batch in data.batches(MODEL)]), PLANES)


def test_planes_of_another_size_are_refused():
    with pytest.raises(InputError, match="preprocessed to 3×16×11, and net takes 3×16×12"):
        make_inputs([PLANES[0, :, :, :11]], MODEL)


def test_planes_are_refused_by_a_graph_that_normalises_by_itself():
    with pytest.raises(InputError, match=r"this graph of net normalises .* --preprocess-in host"):
        make_inputs([PLANES[0]], GRAPH_MODEL)
