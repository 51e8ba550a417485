"""Images and network inputs in .npy and .npz files, and which arrays are neither."""

import numpy as np
import pytest

from deploykit.core.calibration import open_set
from deploykit.core.errors import InputError

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
PLANES = np.random.default_rng(1).normal(size=(5, 3, 4, 6)).astype(np.float32)


@pytest.fixture
def open_arrays(tmp_path):
    """Save an array as .npy, or several as .npz, and open the file."""

    def save(*arrays, **named):
        if named or len(arrays) > 1:
            path = tmp_path / "pets.npz"
            np.savez(path, *arrays, **named)
        else:
            path = tmp_path / "pets.npy"
            np.save(path, *arrays)
        return open_set(str(path))

    return save


def test_colour_images_are_samples(open_arrays):
    samples = open_arrays(COLOURS)
    assert len(samples) == 5
    assert np.array_equal(samples[3].image, COLOURS[3])


def test_grey_images_are_repeated_over_the_channels(open_arrays):
    assert np.array_equal(open_arrays(COLOURS[..., 0])[3].image, np.stack([COLOURS[3, ..., 0]] * 3, axis=-1))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_floats_are_network_inputs_and_become_float32(open_arrays, dtype):
    planes = open_arrays(PLANES.astype(dtype))[2].image
    assert planes.dtype == np.float32
    assert np.array_equal(planes, PLANES[2].astype(dtype).astype(np.float32))


def test_preprocessed_inputs_may_have_one_channel(open_arrays):
    assert np.array_equal(open_arrays(PLANES[:, :1])[2].image, PLANES[2, :1])


def test_an_array_in_fortran_order_is_the_same_images(open_arrays):
    assert np.array_equal(open_arrays(np.asfortranarray(COLOURS))[1].image, COLOURS[1])


def test_samples_are_named_by_their_position(open_arrays):
    samples = open_arrays(COLOURS)
    assert (samples.name, samples.split, samples[4].name) == ("pets", "all", "pets[4]")


def test_changing_a_sample_does_not_change_the_set(open_arrays):
    samples = open_arrays(COLOURS)
    samples[0].image[:] = 0
    assert np.array_equal(samples[0].image, COLOURS[0])


def test_a_npy_is_mapped_and_not_read(open_arrays):
    assert isinstance(open_arrays(COLOURS).load_sample.args[1], np.memmap)


@pytest.mark.parametrize(
    "named", [{"images": COLOURS, "other": PLANES}, {"x": COLOURS}], ids=["images", "the only one"]
)
def test_an_archive_contains_images_under_that_name_or_a_single_array(open_arrays, named):
    assert np.array_equal(open_arrays(**named)[1].image, COLOURS[1])


def test_an_archive_may_contain_labels(open_arrays):
    samples = open_arrays(x=COLOURS, labels=np.array([4, 0, 3, 1, 2], np.uint8))
    assert [sample.label for sample in samples] == [4, 0, 3, 1, 2]


def test_without_labels_every_label_is_none(open_arrays):
    assert open_arrays(images=COLOURS)[0].label is None


def test_an_archive_of_several_arrays_without_images_is_refused_with_their_names(open_arrays):
    with pytest.raises(InputError, match="'x_train', 'x_test'; which array are the images"):
        open_arrays(x_train=COLOURS, x_test=COLOURS)


@pytest.mark.parametrize(
    "labels",
    [np.arange(4), np.arange(5.0), np.arange(-1, 4), np.arange(5)[:, None], np.array(3)],
    ids=["too few", "no integers", "negative", "two axes", "no axis"],
)
def test_labels_that_do_not_fit_are_refused(open_arrays, labels):
    with pytest.raises(InputError, match=r"`labels` in .* Give 5 integers ≥ 0"):
        open_arrays(images=COLOURS, labels=labels)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (COLOURS[0], r"4×6×3, uint8: ambiguous: one colour image"),
        (COLOURS.transpose(0, 3, 1, 2), r"5×3×4×6, uint8: .*transpose\(0, 2, 3, 1\)"),
        (np.zeros((5, 3, 4, 3), np.uint8), "second or the last axis"),
        (COLOURS[..., :1], "a uint8 array is N×H×W×3"),
        (COLOURS[0, 0], "a uint8 array is N×H×W×3"),
        (COLOURS[:0], "no pixel"),
        (COLOURS.astype(np.int64), "int64: this type has no defined white level"),
        (COLOURS > 9, "bool: this type"),
        (PLANES.transpose(0, 2, 3, 1), "floats are network inputs in N×3×H×W or N×1×H×W order"),
        (PLANES[0], "network inputs in N×3×H×W or N×1×H×W order"),
        (PLANES[:, :2], "network inputs in N×3×H×W or N×1×H×W order"),
    ],
)
def test_other_arrays_are_refused_with_the_accepted_formats(open_arrays, array, reason):
    with pytest.raises(InputError, match=rf"{reason}.*Give uint8 images N×H×W×3"):
        open_arrays(array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_refused_and_its_sample_named(open_arrays, value):
    spoilt = PLANES.copy()
    spoilt[3, 0, 0, 0] = value
    samples = open_arrays(spoilt)
    assert samples[2].image.shape == (3, 4, 6)
    with pytest.raises(InputError, match=r"the sample pets\[3\] holds NaN, infinity"):
        samples[3]


def test_a_value_beyond_float32_is_refused(open_arrays, recwarn):
    with pytest.raises(InputError, match="beyond float32"):
        open_arrays(PLANES.astype(np.float64) * 1e300)[0]
    assert not recwarn.list


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="unpickling them would run their code"):
        open_set(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_a_file_that_is_not_an_array_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}' cannot be read as an array"):
        open_set(str(tmp_path / name))


def test_a_npy_that_was_cut_short_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, COLOURS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cannot be read as an array"):
        open_set(str(path))


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=COLOURS)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an array"):
        open_set(str(path))


def test_archives_and_arrays_are_distinguished_by_content(tmp_path):
    np.save(tmp_path / "x.npy", COLOURS)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert np.array_equal(open_set(str(tmp_path / "x.npz"))[1].image, COLOURS[1])
