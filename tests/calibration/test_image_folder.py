"""A folder of images, or one folder per class; torchvision's ImageFolder is the oracle of the labels."""

import os

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from deploykit.core.calibration import open_set
from deploykit.core.errors import InputError


@pytest.fixture
def create_folder(tmp_path):
    """Write small images at the given paths, each with a different grey level, and open their folder."""

    def write(*paths):
        for shade, path in enumerate(paths):
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
            Image.new("RGB", (3, 2), (shade, shade, shade)).save(file, format="PNG")
        return open_set(str(tmp_path))

    return write


def names(samples):
    return [sample.name for sample in samples]


def test_images_are_found_at_any_depth_in_sorted_order(create_folder):
    assert names(create_folder("b.png", "a/z.png", "a/c/x.png", "c.png")) == ["a/c/x.png", "a/z.png", "b.png", "c.png"]


def test_suffixes_match_in_any_case_and_other_files_are_ignored(create_folder, tmp_path):
    (tmp_path / "README.txt").write_text("not an image")
    assert names(create_folder("a.JPG", "b.Jpeg", "c.webp", "d.TIF", "e.ppm", "f.bmp")) == [
        "a.JPG",
        "b.Jpeg",
        "c.webp",
        "d.TIF",
        "e.ppm",
        "f.bmp",
    ]


def test_what_is_no_image_is_counted_and_named_in_one_line(create_folder, tmp_path):
    for name in ("anim.gif", "b.gif", "sub/a.jfif", "c.pgm", "notes.txt", "LICENSE", ".DS_Store"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (note,) = create_folder("a.png").notes
    assert note == (
        f"Files of {tmp_path.name} that are not read as images: 2 .gif, 1 without ending, 1 .pgm, 1 .txt, 1 others "
        "(LICENSE, anim.gif, b.gif, c.pgm and 2 more)."
    )


def test_a_folder_of_images_alone_has_no_note(create_folder):
    assert create_folder("a.png").notes == ()


def test_a_folder_of_other_files_is_refused_with_their_endings(tmp_path):
    (tmp_path / "anim.gif").write_bytes(b"")
    with pytest.raises(InputError, match=r"there is no image under .*, only 1 \.gif"):
        open_set(str(tmp_path))


def test_names_that_are_not_utf_8_are_read_and_written_escaped(create_folder, tmp_path):
    raw = os.fsdecode(b"caf\xe9")
    samples = create_folder(f"{raw}/{raw}.png", f"{raw}/b.png", "tea/c.png")
    assert names(samples) == [r"caf\xe9/b.png", r"caf\xe9/caf\xe9.png", "tea/c.png"]
    assert samples.classes == (r"caf\xe9", "tea")
    assert [sample.label for sample in samples] == [0, 0, 1]
    (tmp_path / f"{raw}.gif").write_bytes(b"")
    assert r"(caf\xe9.gif)" in open_set(str(tmp_path)).notes[0]


def test_hidden_files_and_folders_are_ignored(create_folder):
    assert names(create_folder("a.png", "._a.png", ".thumbnails/a.png")) == ["a.png"]


def test_a_sample_is_its_files_pixels(create_folder):
    samples = create_folder("a.png", "b.png")
    assert np.array_equal(samples[1].image, np.full((2, 3, 3), 1, np.uint8))


def test_a_flat_folder_has_no_labels(create_folder):
    samples = create_folder("a.png", "b.png")
    assert samples.classes == ()
    assert samples[0].label is None


def test_labels_are_image_folders(create_folder, tmp_path):
    samples = create_folder("dog/1.png", "cat/9.png", "cat/deep/3.png", "10/x.png", "2/x.png")
    oracle = ImageFolder(tmp_path)
    assert list(samples.classes) == oracle.classes
    assert {(sample.name, sample.label) for sample in samples} == {
        (os.path.relpath(path, tmp_path), label) for path, label in oracle.samples
    }


def test_a_single_sub_folder_is_not_a_class(create_folder):
    assert create_folder("images/a.png", "images/b.png").classes == ()


def test_sub_folders_next_to_images_are_not_classes(create_folder):
    assert create_folder("a/1.png", "b/2.png", "c.png").classes == ()


def test_a_class_without_images_is_refused_because_it_would_shift_the_labels(create_folder, tmp_path):
    (tmp_path / "bird").mkdir()
    with pytest.raises(InputError, match="'bird'"):
        create_folder("cat/1.png", "dog/1.png")


def test_the_set_is_called_after_the_folder(create_folder, tmp_path):
    samples = create_folder("a.png")
    assert (samples.name, samples.split, samples.real) == (tmp_path.name, "all", True)


def test_a_link_to_a_folder_is_followed(create_folder, tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (2, 2)).save(elsewhere / "x.png")
    (tmp_path / "linked").symlink_to(elsewhere)
    assert names(create_folder("a.png")) == ["a.png", "linked/x.png"]


def test_links_to_a_folder_above_end(create_folder, tmp_path):
    # Two links, since the number of paths doubles at every step: the system's limit of 40 steps is not sufficient.
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "and again").symlink_to(tmp_path)
    assert names(create_folder("a.png")) == ["a.png"]


def test_a_damaged_image_is_named_when_it_is_decoded(create_folder, tmp_path):
    samples = create_folder("a.png", "b.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    assert samples[0].image.shape == (2, 3, 3)
    with pytest.raises(InputError, match=r"b\.png"):
        samples[1]


def test_a_folder_without_images_is_refused_with_the_accepted_suffixes(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"no image under .*\.jpeg"):
        open_set(str(tmp_path))


def test_a_file_is_refused_as_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="is neither a folder"):
        open_set(str(tmp_path / "a.png"))


def test_a_folder_has_no_splits(tmp_path):
    with pytest.raises(InputError, match="no split 'train'"):
        open_set(str(tmp_path), split="train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(create_folder, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    with pytest.raises(InputError, match=r"locked.* cannot be read"):
        create_folder("a.png")
