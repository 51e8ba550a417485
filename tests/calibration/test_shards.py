"""WebDataset shards: grouping of members, reading in place, and refusals."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from deploykit.core.calibration import UndecodableImage, open_set
from deploykit.core.errors import InputError


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, members, mode="w", **options):
    """A tar file with these members (name, bytes), in order."""
    with tarfile.open(path, mode, **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def names(samples):
    return [sample.name for sample in samples]


def test_members_of_one_key_are_one_sample(tmp_path):
    path = write(
        tmp_path / "s.tar",
        [("a.png", png(1)), ("a.cls", b"7"), ("a.json", b"{}"), ("b.cls", b" 3\n"), ("b.png", png(2))],
    )
    samples = open_set(path)
    assert [(sample.name, sample.label) for sample in samples] == [("s/a.png", 7), ("s/b.png", 3)]
    assert np.array_equal(samples[1].image, np.full((2, 3, 3), 2, np.uint8))


def test_a_key_ends_at_the_first_dot_after_the_folders(tmp_path):
    members = [("v1.0/a.png", png(1)), ("v1.0/a.seg.png", png(2)), ("v1.0/b.png", png(3))]
    assert names(open_set(write(tmp_path / "s.tar", members))) == ["s/v1.0/a.png", "s/v1.0/b.png"]


def test_suffixes_match_in_any_case(tmp_path):
    assert open_set(write(tmp_path / "s.tar", [("a.PNG", png(1)), ("a.CLS", b"4")]))[0].label == 4


def test_without_classes_there_are_no_labels(tmp_path):
    assert open_set(write(tmp_path / "s.tar", [("a.png", png(1))]))[0].label is None


def test_members_that_are_not_images_are_ignored(tmp_path):
    members = [("README", b"x"), ("._a.png", b"x"), ("meta.json", b"{}"), ("a.png", png(1))]
    assert names(open_set(write(tmp_path / "s.tar", members))) == ["s/a.png"]


def test_links_and_folders_are_ignored(tmp_path):
    path = tmp_path / "s.tar"
    write(path, [("a.png", png(1))])
    with tarfile.open(path, "a") as tar:
        for name, kind in (("b.png", tarfile.SYMTYPE), ("c.png", tarfile.LNKTYPE), ("d.png", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
    assert names(open_set(str(path))) == ["s/a.png"]


@pytest.mark.parametrize("name", ["/etc/passwd.png", "../../up.png"])
def test_a_members_name_is_never_a_path(tmp_path, name):
    path = write(tmp_path / "s.tar", [(name, png(5))])
    before = sorted(tmp_path.rglob("*"))
    assert open_set(path)[0].image[0, 0, 0] == 5
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_read(tmp_path, layout):
    name = "folder/" * 40 + "ä.png"
    assert names(open_set(write(tmp_path / "s.tar", [(name, png(1))], format=layout))) == [f"s/{name}"]


def test_a_pattern_names_shards_in_order(tmp_path):
    for number in (8, 9, 10):
        write(tmp_path / f"s-{number:03}.tar", [("a.png", png(number))])
    samples = open_set(str(tmp_path / "s-{008..010}.tar"))
    assert [sample.image[0, 0, 0] for sample in samples] == [8, 9, 10]
    assert names(samples) == ["s-008/a.png", "s-009/a.png", "s-010/a.png"]


def test_a_missing_shard_of_a_pattern_is_refused(tmp_path):
    write(tmp_path / "s-0.tar", [("a.png", png(0))])
    with pytest.raises(InputError, match=r"no shard '.*s-1\.tar'"):
        open_set(str(tmp_path / "s-{0..1}.tar"))


def test_a_pattern_that_counts_backwards_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\{3\.\.1\} in .* is empty"):
        open_set(str(tmp_path / "s-{3..1}.tar"))


def test_a_folder_of_shards_contains_all_of_them_sorted_by_name(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.tar", [("x.png", png(1))])
    samples = open_set(str(tmp_path))
    assert (names(samples), samples.name) == (["a/x.png", "b/x.png"], tmp_path.name)


def test_an_archive_next_to_unpacked_images_is_ignored(tmp_path):
    write(tmp_path / "s.tar", [("a.png", png(1))])
    (tmp_path / "b.png").write_bytes(png(2))
    assert names(open_set(str(tmp_path))) == ["b.png"]


@pytest.mark.parametrize(("name", "mode"), [("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar.xz", "w:xz")])
def test_a_compressed_shard_is_refused_with_the_reason(tmp_path, name, mode):
    path = write(tmp_path / name, [("a.png", png(1))], mode)
    with pytest.raises(InputError, match="is compressed, so its members cannot be read individually"):
        open_set(path)


def test_compression_with_a_plain_suffix_is_refused(tmp_path):
    path = write(tmp_path / "s.tar", [("a.png", png(1))], "w:gz")
    with pytest.raises(InputError, match=r"s\.tar' cannot be read as a tar file"):
        open_set(path)


def test_a_shard_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no image in the shards"):
        open_set(write(tmp_path / "s.tar", [("a.json", b"{}")]))


def test_two_images_of_one_sample_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"the sample 'a' in .* has several images: png, jpg"):
        open_set(write(tmp_path / "s.tar", [("a.png", png(1)), ("a.jpg", png(1))]))


def test_a_duplicate_member_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"two members 'a\.png'"):
        open_set(write(tmp_path / "s.tar", [("a.png", png(1)), ("b.png", png(1)), ("a.png", png(2))]))


@pytest.mark.parametrize("content", [b"cat", b"", b"-1", b"1.5", b"9" * 40])
def test_a_non_integer_class_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"a\.cls in .*, not a class"):
        open_set(write(tmp_path / "s.tar", [("a.png", png(1)), ("a.cls", content)]))


def test_labels_on_some_images_only_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"1 of 2 images .* no \.cls member, first 'b\.png'"):
        open_set(write(tmp_path / "s.tar", [("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(1))]))


def test_a_damaged_image_is_named_with_its_shard(tmp_path):
    samples = open_set(write(tmp_path / "s.tar", [("a.png", b"damaged")]))
    with pytest.raises(UndecodableImage, match=r"s\.tar: a\.png' cannot be decoded"):
        samples[0]


@pytest.mark.parametrize("keep", [0, 100, 512, 1000, 1024 + 200], ids="{} bytes".format)
def test_a_shard_that_was_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "s.tar"
    write(path, [("a.png", png(1)), ("b.png", png(2))])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="cannot be read as a tar file"):
        open_set(str(path))


def test_a_damaged_header_is_distinguished_from_the_end_of_the_archive(tmp_path):
    path = tmp_path / "s.tar"
    write(path, [("a.png", png(1)), ("b.png", png(2))])
    content = bytearray(path.read_bytes())
    content[1024 + 150] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="the header at byte 1024 is damaged"):
        open_set(str(path))


def test_a_header_that_leads_backwards_is_refused(tmp_path):
    path = tmp_path / "s.tar"
    info = tarfile.TarInfo("a.png")
    info.size = -1024
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match="cannot be read as a tar file"):
        open_set(str(path))
