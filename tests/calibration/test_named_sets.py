"""The named sets are real, deterministic, and split without shared pixels."""

import sys
from importlib import util
from pathlib import Path

import msgspec
import numpy as np
import pytest

from deploykit.core import calibration
from deploykit.core.calibration import SETS, crops, open_set, record_samples, split_for
from deploykit.core.calibration.crops import MIN_CROP_SIDE
from deploykit.core.calibration.manifest import read_manifest
from deploykit.core.errors import InputError

NAMES = sorted(SETS)


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_names_its_set_and_its_terms(name):
    manifest = read_manifest(SETS[name])
    assert manifest.name == name
    assert manifest.title
    assert manifest.licence
    assert manifest.loader in calibration.LOADERS


@pytest.mark.parametrize("name", NAMES)
def test_calibration_and_evaluation_partition_the_set(name):
    parts = [open_set(name, split_for(name, purpose)).items for purpose in ("calibration", "evaluation")]
    assert sorted([*parts[0], *parts[1]]) == sorted(open_set(name).items)
    assert not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_calibration_split_is_large_enough(name):
    assert len(open_set(name, split_for(name, "calibration"))) >= 256


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_rgb_images(name):
    samples = open_set(name)
    for index in (0, len(samples) // 2, len(samples) - 1):
        image = samples[index].image
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)


@pytest.mark.parametrize("name", NAMES)
def test_sample_names_are_unique(name):
    samples = open_set(name, split_for(name, "evaluation"))
    names = [samples[index].name for index in range(0, len(samples), 7)]
    assert len(set(names)) == len(names)


# These digests were recorded once. A change of the images, of their order or of the split is a change of every
# accuracy reported on them, and must be deliberate.
@pytest.mark.parametrize(
    ("name", "split", "count", "sha256"),
    [
        ("digits", "train", 1352, "24a93b79c285045987b9905bcfd194cd43fcbffcade8463e0243611cd76b4a80"),
        ("digits", "heldout", 445, "80620316febaef3ae7acaf9846342d683359e4029691ecccb4383ce8b2474826"),
    ],
)
def test_the_digits_are_the_same_everywhere(name, split, count, sha256):
    receipt = record_samples(open_set(name, split))
    assert (receipt.count, receipt.sha256) == (count, sha256)


def test_the_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    original = load_digits()
    digits = open_set("digits")
    assert len(digits) == len(original.target)
    for index in (0, 900, 1796):
        assert digits[index].label == original.target[index]
        expected = np.repeat(np.round(original.images[index] * 255 / 16)[..., None], 3, axis=-1)
        assert np.abs(digits[index].image - expected).max() <= 0.5


def test_digits_are_held_out_equally_per_class():
    shares = {split: np.bincount([digit.label for digit in open_set("digits", split)]) for split in ("all", "heldout")}
    assert np.array_equal(shares["heldout"], shares["all"] // 4)


def test_each_photograph_is_in_one_split():
    tags = {
        split: {window.path for window in open_set("photos", split).items} for split in ("calibration", "evaluation")
    }
    assert len(tags["calibration"]) >= 8
    assert len(tags["evaluation"]) >= 7
    assert not tags["calibration"] & tags["evaluation"]


def test_photographs_are_read_without_importing_scikit_image(monkeypatch):
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    assert open_set("photos")[0].image.any()
    assert "skimage" not in sys.modules


def test_a_crop_is_the_window_of_its_photograph():
    from skimage import data

    photos = open_set("photos", "calibration")
    astronaut = data.astronaut()
    chosen = [index for index, window in enumerate(photos.items) if window.path.name == "astronaut.png"]
    for index in chosen:
        _, left, top, side = photos.items[index]
        assert np.array_equal(photos[index].image, astronaut[top : top + side, left : left + side])


def test_crops_cover_their_photograph_at_every_scale():
    windows = [window for window in open_set("photos").items if window.path.name == "coffee.png"]  # 400×600
    for side in {window.side for window in windows}:
        covered = np.zeros((400, 600), bool)
        for _, left, top, _ in (window for window in windows if window.side == side):
            covered[top : top + side, left : left + side] = True
        assert covered.all()


def test_crops_have_enough_pixels_to_show_something():
    assert min(window.side for window in open_set("photos").items) >= MIN_CROP_SIDE


def test_changing_a_sample_does_not_change_the_photograph():
    photos = open_set("photos")
    before = photos[0].image.copy()
    photos[0].image[:] = 0
    assert np.array_equal(photos[0].image, before)


def test_few_photographs_are_in_memory_at_once():
    for sample in open_set("photos", "evaluation"):
        assert sample.image.any()
    assert crops._decode_photograph.cache_info().currsize <= 2


def test_concurrent_threads_decode_a_photograph_once(monkeypatch):
    decoded = []

    def decode(path):
        decoded.append(path)
        return original(path)

    original = crops.decode_image
    monkeypatch.setattr(crops, "decode_image", decode)
    crops._decode_photograph.cache_clear()
    photos = open_set("photos", "calibration")
    of_one = [index for index, window in enumerate(photos.items) if window.path.name == "astronaut.png"]
    for sample in calibration.prefetch_results(photos.__getitem__, of_one):
        assert sample.image.any()
    assert [path.name for path in decoded] == ["astronaut.png"]


@pytest.fixture
def photographs_copy(tmp_path, monkeypatch):
    """A copy of the package's photographs that a test may damage."""
    manifest = read_manifest(SETS["photos"])
    original = Path(util.find_spec("skimage").submodule_search_locations[0])
    for file in manifest.files:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes((original / file.path).read_bytes())
    monkeypatch.setattr(crops, "_find_package", lambda _: tmp_path)
    return tmp_path


def test_a_changed_photograph_is_refused(photographs_copy):
    with (photographs_copy / "data" / "chelsea.png").open("ab") as file:
        file.write(b"!")
    with pytest.raises(InputError, match=r"(?s)chelsea\.png' has changed.*--force-reinstall"):
        open_set("photos")


def test_photographs_of_the_other_split_are_not_read(photographs_copy):
    (photographs_copy / "data" / "chelsea.png").unlink()
    assert len(open_set("photos", "calibration"))


def test_a_missing_photograph_is_refused(photographs_copy):
    (photographs_copy / "data" / "chelsea.png").unlink()
    with pytest.raises(InputError, match=r"(?s)chelsea\.png' is missing"):
        open_set("photos")


def test_synthetic_images_are_marked_as_such():
    assert not open_set("synthetic").real
    assert open_set("photos").real
    assert open_set("digits").real


def test_synthetic_images_are_smooth_and_fill_the_range():
    image = open_set("synthetic")[0].image.astype(int)
    assert image.min() < 16
    assert image.max() > 239
    # White noise of this spread would differ by 80 and more from pixel to pixel.
    assert np.abs(np.diff(image, axis=0)).mean() < 15


@pytest.mark.parametrize("module", ["sklearn", "skimage"])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    name = {"sklearn": "digits", "skimage": "photos"}[module]
    with pytest.raises(InputError, match=r"(?s)scikit-(learn|image), which is not installed.*\[datasets\]"):
        open_set(name)


def test_an_unknown_name_suggests_the_nearest_ones():
    with pytest.raises(InputError, match=r"neither a named set nor a folder.*did you mean photos"):
        open_set("photo")


def test_the_error_for_an_unknown_split_lists_the_valid_ones():
    with pytest.raises(InputError, match="split of digits 'test'; choose from all, heldout, train"):
        open_set("digits", "test")


def test_a_name_takes_precedence_over_a_folder_and_a_path_selects_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert len(open_set("photos")) > 256
    with pytest.raises(InputError, match="no image under"):
        open_set("./photos")


def test_a_folder_has_all_its_images_in_every_split(tmp_path):
    assert split_for(str(tmp_path), "calibration") == "all"


def test_a_manifest_with_an_unknown_field_is_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "x", "tittle": "y"}, type(read_manifest("digits.toml")))
