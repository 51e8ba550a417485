"""CIFAR-10's binary version, record by record, and its relatives that are refused."""

import numpy as np
import pytest

from deploykit.core.calibration import find_common_samples, open_set, select_samples, split_for
from deploykit.core.errors import InputError

NAMES = "airplane automobile bird cat deer dog frog horse ship truck"


def records(count, seed, side=32):
    """Labels N, images N×32×32×3, and the bytes of both."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    rows = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in zip(labels, images, strict=True)]
    return labels, images, b"".join(rows)


@pytest.fixture
def folder(tmp_path):
    """Two training batches of four images, one of three to test, and the names."""
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for seed, (name, count) in enumerate([("data_batch_1", 4), ("data_batch_2", 4), ("test_batch", 3)]):
        (root / f"{name}.bin").write_bytes(records(count, seed)[2])
    (root / "batches.meta.txt").write_text(NAMES.replace(" ", "\n") + "\n\n")
    return root


def test_a_sample_is_its_record(folder):
    labels, images, _ = records(4, seed=1)
    sample = open_set(str(folder), "train")[6]
    assert np.array_equal(sample.image, images[2])
    assert (sample.label, sample.name) == (labels[2], "data_batch_2[2]")


@pytest.mark.parametrize(("split", "count"), [("train", 8), ("test", 3), ("all", 11)])
def test_the_splits_are_the_files(folder, split, count):
    assert len(open_set(str(folder), split)) == count


def test_one_trains_and_tests_on_different_images(folder):
    splits = [split_for(str(folder), purpose) for purpose in ("calibration", "evaluation")]
    assert splits == ["train", "test"]
    first, second = (select_samples(open_set(str(folder), split), 3).digests for split in splits)
    assert find_common_samples(first, second) == ()


def test_the_classes_have_their_names(folder):
    assert open_set(str(folder)).classes == tuple(NAMES.split())


def test_names_are_not_invented_where_they_are_missing(folder):
    (folder / "batches.meta.txt").unlink()
    assert open_set(str(folder)).classes == ()


def test_another_count_of_names_is_refused(folder):
    (folder / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match="names 2 classes, not 10"):
        open_set(str(folder))


def test_one_file_serves_every_purpose(folder):
    path = str(folder / "test_batch.bin")
    assert split_for(path, "evaluation") == "all"
    assert len(open_set(path)) == 3


def test_a_split_whose_file_is_missing_is_refused(folder):
    (folder / "test_batch.bin").unlink()
    with pytest.raises(InputError, match=r"holds none of test_batch\.bin"):
        open_set(str(folder), "test")


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(InputError, match="no split 'heldout'"):
        open_set(str(folder), "heldout")


def test_a_file_that_was_cut_short_is_refused(folder):
    path = folder / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"test_batch\.bin', 9218 bytes, is not a multiple of 3073-byte records"):
        open_set(str(path))


def test_an_empty_file_is_refused(folder):
    (folder / "test_batch.bin").write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes, is not a multiple"):
        open_set(str(folder))


def test_a_label_above_nine_is_refused_with_its_image(folder):
    path = folder / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)
    samples = open_set(str(path))
    assert samples[0].image.shape == (32, 32, 3)
    with pytest.raises(InputError, match=r"image 1 of .*test_batch\.bin' has the label 10"):
        samples[1]


def test_a_cifar_100_file_is_recognized_by_its_size(tmp_path):
    (tmp_path / "test.bin").write_bytes(bytes(3074 * 5))
    with pytest.raises(InputError, match="that of CIFAR-100, whose records have two labels and 3074 bytes, not 3073"):
        open_set(str(tmp_path / "test.bin"))


@pytest.mark.parametrize("names", [("data_batch_1", "test_batch"), ("train.bin", "test.bin", "fine_label_names.txt")])
def test_a_folder_of_pickles_or_of_cifar_100_is_refused_with_the_version_to_use(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="Take the binary version of CIFAR-10"):
        open_set(str(tmp_path))
