"""The kind of set at a path, and the files that a set reads."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from deploykit.core.calibration import list_files, open_set, split_for
from deploykit.core.errors import InputError


@pytest.fixture
def data_folder(tmp_path):
    """One data set of each kind that a path can select."""
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
def test_a_path_opens_the_matching_kind_of_set(data_folder, name, count):
    assert len(open_set(str(data_folder / name))) == count


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
def test_a_set_lists_the_files_it_reads(data_folder, name, depends):
    assert list_files(str(data_folder / name)) == tuple(data_folder / path for path in depends)


@pytest.mark.parametrize("name", ["photos", "nowhere"])
def test_a_named_set_and_a_missing_path_list_no_files(name):
    assert list_files(name) is None


@pytest.mark.parametrize("name", ["folder", "x.npy", "x.bin", "x.lst", "s{0..1}.tar"])
def test_most_paths_have_one_split_with_all_samples(data_folder, name):
    assert {split_for(str(data_folder / name), purpose) for purpose in ("calibration", "evaluation")} == {"all"}


@pytest.mark.parametrize("name", ["folder", "x.npy", "x.bin", "x.lst", "s{0..1}.tar"])
def test_most_paths_have_no_splits(data_folder, name):
    with pytest.raises(InputError, match="no split 'train'"):
        open_set(str(data_folder / name), split="train")


@pytest.mark.parametrize("name", ["a.png", "x", "x.pkl"])
def test_another_file_is_refused_with_the_accepted_kinds(data_folder, name):
    (data_folder / name).touch()
    with pytest.raises(InputError, match=r"nor a supported file\. Give a folder of images, a \.npy"):
        open_set(str(data_folder / name))


@pytest.mark.parametrize("name", ["nowhere.npy", "nowhere.tar", "nowhere/", "a-{0..1}.png"])
def test_an_unknown_name_is_reported_as_neither_set_nor_file(tmp_path, name):
    with pytest.raises(InputError, match="neither a named set nor a folder or file"):
        open_set(str(tmp_path / name))
