"""Samples in whole batches: how many, how large, in which form, and what the record says of them."""

import numpy as np
import pytest
from PIL import Image

import calibration
from deploykit import preprocess
from deploykit.data import CHUNK, as_input, open_data
from deploykit.errors import InputError
from deploykit.values import BatchRange, ModelSpec, Preprocessing

SPEC = Preprocessing(resize=16, height=16, width=12)
MODEL = ModelSpec("net", "family", "paper", {}, SPEC)
GRAPH_MODEL = ModelSpec("net", "family", "paper", {}, SPEC, preprocess="graph")


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


@pytest.mark.parametrize(("asked", "used"), [(1, 4), (4, 4), (5, 8), (16, 16)])
def test_the_count_is_rounded_up_to_whole_batches(asked, used):
    data = opened(asked, (1, 8, 32))
    assert (data.record.count, data.length) == (used, used // CHUNK)


def test_the_count_is_rounded_down_where_the_set_ends(folder):
    data = opened(100, (1, 8, 32), str(folder))
    assert (data.record.count, data.length) == (8, 2)


def test_a_set_smaller_than_one_batch_is_refused(folder):
    with pytest.raises(InputError, match=r"has 10 samples, and one batch of this graph takes 11\. Give more images"):
        opened(4, (11, 11, 11), str(folder))


def test_batches_hold_every_sample_once_in_order(folder):
    data = opened(8, (1, 8, 32), str(folder))
    images = [data.samples[index] for index in range(8)]
    batches = list(data.batches(MODEL))
    assert [len(batch.inputs["input"]) for batch in batches] == [4, 4]
    assert np.array_equal(
        np.concatenate([batch.inputs["input"] for batch in batches]),
        preprocess.batch([sample.image for sample in images], SPEC),
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
    assert data.record == calibration.record(calibration.subset(calibration.open_set("synthetic", "evaluation"), 8))
    assert (data.record.split, data.record.real) == ("evaluation", False)


def test_calibration_and_evaluation_are_different_samples():
    first, second = (open_data("synthetic", purpose, 8, BatchRange()) for purpose in ("calibration", "evaluation"))
    assert {sample.name for sample in first.samples}.isdisjoint(sample.name for sample in second.samples)


def test_the_same_samples_are_taken_every_time():
    assert opened(8, (1, 8, 32)).record == opened(8, (1, 8, 32)).record


# ── Inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

IMAGES = [np.random.default_rng(seed).integers(0, 256, (20, 30 + seed, 3), dtype=np.uint8) for seed in range(2)]


def test_a_network_that_is_fed_planes_gets_them_normalised():
    planes = as_input(IMAGES, MODEL)
    assert (planes.shape, planes.dtype) == ((2, 3, 16, 12), np.float32)
    assert np.array_equal(planes[1], preprocess.preprocess(IMAGES[1], SPEC))


def test_a_graph_that_normalises_by_itself_gets_the_cropped_pixels():
    pixels = as_input(IMAGES, GRAPH_MODEL)
    assert (pixels.shape, pixels.dtype) == ((2, 16, 12, 3), np.uint8)
    assert np.array_equal(pixels[1], preprocess.crop(IMAGES[1], SPEC))
