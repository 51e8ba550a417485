"""A text file that lists images: one a line, labelled or not."""

import numpy as np
import pytest
from PIL import Image

from deploykit.core.calibration import open_set
from deploykit.core.errors import InputError


@pytest.fixture
def open_list(tmp_path):
    """Write a list next to three images and open it."""
    for shade, name in enumerate(("a.png", "b c.png", "d,e.png")):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (3, 2), (shade, shade, shade)).save(tmp_path / "images" / name)

    def write(text, name="pets.txt"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return open_set(str(path))

    return write


def test_a_line_is_a_path_in_the_lists_folder(open_list):
    samples = open_list("images/b c.png\nimages/a.png\n")
    assert [sample.name for sample in samples] == ["images/b c.png", "images/a.png"]
    assert np.array_equal(samples[0].image, np.full((2, 3, 3), 1, np.uint8))


@pytest.mark.parametrize("name", ["pets.txt", "pets.csv", "pets.lst", "pets.TXT"])
def test_the_set_is_called_after_the_list(open_list, name):
    assert open_list("images/a.png", name).name == "pets"


def test_an_absolute_path_is_itself(open_list, tmp_path):
    assert open_list(f"{tmp_path}/images/a.png")[0].image.shape == (2, 3, 3)


@pytest.mark.parametrize("between", ["\t", ",", " ", " , ", "\t\t"], ids=repr)
@pytest.mark.parametrize("path", ["images/a.png", "images/b c.png", "images/d,e.png"])
def test_an_integer_after_the_path_is_its_class(open_list, path, between):
    sample = open_list(f"{path}{between}12\n")[0]
    assert (sample.name, sample.label) == (path, 12)


@pytest.mark.parametrize("path", ["images/b c.png", "images/d,e.png"])
def test_blanks_and_commas_may_belong_to_the_path(open_list, path):
    assert (open_list(path)[0].name, open_list(path)[0].label) == (path, None)


def test_comments_and_empty_lines_are_ignored(open_list):
    assert len(open_list("# of May\n\n  \nimages/a.png\n# images/b c.png\n")) == 1


def test_windows_line_endings_are_read(open_list):
    assert len(open_list(b"\xef\xbb\xbfimages/a.png\r\nimages/b c.png\r\n")) == 2


def test_missing_files_are_named_with_their_lines(open_list):
    with pytest.raises(InputError, match=r"do not exist: line 2: 'x\.png', line 4: 'cat'\. Paths are relative"):
        open_list("images/a.png\nx.png\nimages/a.png\ncat\n")


def test_of_many_missing_files_the_first_are_named(open_list):
    with pytest.raises(InputError, match=r"line 3: '2\.png' and 7 more"):
        open_list("".join(f"{index}.png\n" for index in range(10)))


def test_a_folder_is_refused_as_an_image(open_list):
    with pytest.raises(InputError, match="line 1: 'images'"):
        open_list("images\n")


@pytest.mark.parametrize("word", ["cat", "-1", "1.5"])
def test_a_non_integer_class_is_read_as_part_of_the_path_and_refused(open_list, word):
    with pytest.raises(InputError, match=rf"'images/a\.png,{word}'.*a class is an integer ≥ 0"):
        open_list(f"images/a.png,{word}\n")


def test_classes_on_some_lines_only_are_refused(open_list):
    with pytest.raises(InputError, match=r"line 3 of .* has no class, but other lines do"):
        open_list("# class\nimages/a.png 1\nimages/b c.png\n")


def test_an_empty_list_is_refused(open_list):
    with pytest.raises(InputError, match="is empty"):
        open_list("# nothing yet\n")


def test_a_list_that_is_not_text_is_refused(open_list):
    with pytest.raises(InputError, match=r"cannot be read: .*Give a text file in UTF-8"):
        open_list(b"\xff\xfe\x00")
