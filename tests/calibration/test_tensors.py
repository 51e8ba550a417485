"""Samples that are arrays by the inputs' names: from an .npz file, or noise."""

import zipfile

import numpy as np
import pytest

from deploykit.core import calibration
from deploykit.core.errors import InputError
from deploykit.core.values import TensorSpec

TOKENS = TensorSpec("tokens", "int64", ("batch", 8), "NC")
POINTS = TensorSpec("points", "float32", ("batch", 3, 5), "ND")
HALF = TensorSpec("points", "float16", ("batch", 3, 5), "ND")
BOTH = (TOKENS, POINTS)


def arrays(count=6):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((count, 3, 5)).astype(np.float32)
    return {"tokens": rng.integers(0, 9, (count, 8)), "points": points}


@pytest.fixture
def save_tensors(tmp_path):
    def save(**given):
        np.savez(tmp_path / "samples.npz", **given)
        return str(tmp_path / "samples.npz")

    return save


def test_each_row_of_a_file_is_a_sample(save_tensors):
    tensors = arrays()
    data = calibration.open_tensors(save_tensors(**tensors), BOTH, "all")
    assert len(data) == 6
    assert {name: array.tolist() for name, array in data[4].tensors.items()} == {
        name: array[4].tolist() for name, array in tensors.items()
    }


def test_labels_may_be_in_the_same_archive(save_tensors):
    data = calibration.open_tensors(save_tensors(**arrays(3), labels=np.array([2, 0, 1])), BOTH, "all")
    assert [sample.label for sample in data] == [2, 0, 1]


def test_an_input_called_labels_is_an_input(save_tensors):
    spec = TensorSpec("labels", "int64", ("batch",), "ND")
    data = calibration.open_tensors(save_tensors(labels=np.array([2, 0])), (spec,), "all")
    assert [(int(sample.tensors["labels"]), sample.label) for sample in data] == [(2, None), (0, None)]


def test_a_float16_input_is_given_float32(save_tensors):
    points = arrays()["points"]
    assert len(calibration.open_tensors(save_tensors(points=points), (HALF,), "all")) == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": None}, "has no array 'tokens', only points"),
        ({"mask": np.zeros((6, 1))}, "has an array 'mask', but the network has no such input"),
        (
            {"tokens": np.zeros((5, 8), np.int64)},
            "the same number of rows, at least one, in each array: 5 of tokens, 6 of points",
        ),
        ({"tokens": np.zeros((6, 9), np.int64)}, "'tokens' is 6×9 int64, and the network takes N×8 int64"),
        ({"tokens": np.zeros((6, 8), np.int32)}, "'tokens' is 6×8 int32, and the network takes N×8 int64"),
        ({"points": np.full((6, 3, 5), np.nan, np.float32)}, "'points' holds NaN or infinity"),
        ({"labels": np.zeros(5, np.int64)}, "labels are 5 int64"),
    ],
)
def test_arrays_that_do_not_match_the_network_are_refused(save_tensors, change, said):
    tensors = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(InputError, match=said):
        calibration.open_tensors(save_tensors(**tensors), BOTH, "all")


def test_a_file_that_is_not_an_archive_is_refused(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"broken\.npz cannot be read"):
        calibration.open_tensors(str(tmp_path / "broken.npz"), BOTH, "all")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no"):
        calibration.open_tensors(str(tmp_path / "gone.npz"), BOTH, "all")


def test_images_are_refused_as_tensors():
    with pytest.raises(InputError, match=r"takes tokens.*points") as caught:
        calibration.open_tensors("photos", BOTH, "all")
    assert ".npz" in caught.value.remedy


def test_for_an_image_network_the_remedy_names_the_options():
    with pytest.raises(InputError) as caught:
        calibration.open_tensors("photos", (TensorSpec("x", "float32", ("batch", 3, 8, 8), "NCHW"),), "all")
    assert "--mean" in caught.value.remedy


def test_noise_is_the_same_each_time():
    first, second = (calibration.open_tensors("synthetic", (POINTS,), "all")[7] for _ in range(2))
    assert first.tensors["points"].tobytes() == second.tensors["points"].tobytes()


def test_noise_is_standard_normal():
    data = calibration.open_tensors("synthetic", (POINTS,), "calibration")
    values = np.stack([data[index].tensors["points"] for index in range(256)])
    assert abs(values.mean()) < 0.1
    assert abs(values.std() - 1) < 0.1


def test_evaluation_noise_is_disjoint_from_calibration_noise():
    sets = [calibration.open_tensors("synthetic", (POINTS,), split) for split in ("calibration", "evaluation")]
    receipts = [calibration.select_samples(samples, 16).digests for samples in sets]
    assert calibration.find_common_samples(*receipts) == ()


def test_noise_for_integers_is_refused():
    with pytest.raises(InputError, match="'tokens' is int64"):
        calibration.open_tensors("synthetic", BOTH, "all")


def test_a_receipt_recognizes_equal_samples_with_different_names(save_tensors, tmp_path):
    tensors = arrays()
    first = calibration.select_samples(calibration.open_tensors(save_tensors(**tensors), BOTH, "all"), 6)
    np.savez(tmp_path / "other.npz", **{name: array[2:4] for name, array in tensors.items()})
    second = calibration.select_samples(calibration.open_tensors(str(tmp_path / "other.npz"), BOTH, "all"), 2)
    assert calibration.find_common_samples(first.digests, second.digests) == (
        ("samples[2]", "other[0]"),
        ("samples[3]", "other[1]"),
    )


def test_a_sample_of_one_repeated_value_is_reported_as_constant(save_tensors):
    tensors = arrays(2)
    for array in tensors.values():
        array[1] = 3
    assert (
        calibration.select_samples(calibration.open_tensors(save_tensors(**tensors), BOTH, "all"), 2).record.constant
        == 1
    )


def test_a_single_array_with_the_suffix_of_an_archive_is_refused(tmp_path):
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match=r"it is not an \.npz file, or it is truncated"):
        calibration.open_tensors(str(tmp_path / "one.npz"), BOTH, "all")


def test_an_archive_of_other_things_than_arrays_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "notes.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(InputError, match=r"holds 'notes\.txt', which is not an array"):
        calibration.open_tensors(str(tmp_path / "notes.npz"), BOTH, "all")
