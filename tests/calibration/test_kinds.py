"""What a path leads to, and which files a set stands on."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from deploykit.core.calibration import list_files, open_set, split_for
from deploykit.core.errors import InputError


@pytest.fixture
def place(tmp_path):
    """One of each kind that a path can lead to."""
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "folder" / "b.png")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), np.uint8))
    np.savez(tmp_path / "x.npz", np.zeros((2, 3, 4), np.uint8))
    (tmp_path / "x.bin").write_bytes(bytes(3073))
    (tmp_path / "cifar").mkdir()
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / "cifar" / name).write_bytes(bytes(3073))
    (tmp_path / "cifar" / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    (tmp_path / "x.lst").write_text("a.png\nfolder/b.png\n")
    for number in (0, 1):
        with tarfile.open(tmp_path / f"s{number}.tar", "w") as tar:
            tar.add(tmp_path / "a.png", arcname="a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("folder", 1),
        ("x.npy", 2),
        ("x.npz", 2),
        ("x.bin", 1),
        ("cifar", 2),
        ("x.lst", 2),
        ("s0.tar", 1),
        ("s{0..1}.tar", 2),
    ],
)
def test_a_path_opens_what_it_leads_to(place, name, count):
    assert len(open_set(str(place / name))) == count


@pytest.mark.parametrize(
    ("name", "depends"),
    [
        ("folder", ["folder/b.png"]),
        ("x.npy", ["x.npy"]),
        ("x.npz", ["x.npz"]),
        ("x.bin", ["x.bin"]),
        ("cifar", ["cifar/data_batch_1.bin", "cifar/test_batch.bin", "cifar/batches.meta.txt"]),
        ("x.lst", ["x.lst", "a.png", "folder/b.png"]),
        ("s0.tar", ["s0.tar"]),
        ("s{0..1}.tar", ["s0.tar", "s1.tar"]),
    ],
)
def test_a_set_stands_on_these_files(place, name, depends):
    assert list_files(str(place / name)) == tuple(place / path for path in depends)


@pytest.mark.parametrize("name", ["photos", "nowhere"])
def test_a_named_set_and_what_is_not_there_stand_on_none(name):
    assert list_files(name) is None


@pytest.mark.parametrize("name", ["folder", "x.npy", "x.bin", "x.lst", "s{0..1}.tar"])
def test_most_paths_serve_every_purpose_with_all_they_have(place, name):
    assert {split_for(str(place / name), purpose) for purpose in ("calibration", "evaluation")} == {"all"}


@pytest.mark.parametrize("name", ["folder", "x.npy", "x.bin", "x.lst", "s{0..1}.tar"])
def test_most_paths_have_no_splits(place, name):
    with pytest.raises(InputError, match="no split 'train'"):
        open_set(str(place / name), split="train")


@pytest.mark.parametrize("name", ["a.png", "x", "x.pkl"])
def test_another_file_is_refused_with_what_would_be_taken(place, name):
    (place / name).touch()
    with pytest.raises(InputError, match=r"nor a supported file\. Give a folder of images, a \.npy"):
        open_set(str(place / name))


@pytest.mark.parametrize("name", ["nowhere.npy", "nowhere.tar", "nowhere/", "a-{0..1}.png"])
def test_what_is_not_there_is_neither_set_nor_file(tmp_path, name):
    with pytest.raises(InputError, match="neither a named set nor a folder or file"):
        open_set(str(tmp_path / name))
