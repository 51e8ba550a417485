"""Files as a stream: what arrives is what was sent, or it is refused."""

import hashlib
import io
import tarfile

import pytest

from deploykit.core.errors import CheckFailed
from deploykit.workflows.sweep import archive
from deploykit.workflows.sweep.archive import ArchiveLabel


@pytest.fixture
def files(tmp_path):
    (tmp_path / "sent" / "golden").mkdir(parents=True)
    (tmp_path / "sent" / "model.onnx").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "sent" / "golden" / "in.npy").write_bytes(b"golden")
    return {name: tmp_path / "sent" / name for name in ("model.onnx", "golden/in.npy")}


@pytest.fixture
def arrived(tmp_path):
    folder = tmp_path / "arrived"
    folder.mkdir()
    return folder


def sent(files, near):
    with archive.pack_files(files, near) as packed:
        return packed.label, list(packed.pieces())


def test_files_arrive_as_they_were_sent_times_included(files, arrived, tmp_path):
    label, pieces = sent(files, tmp_path)
    archive.unpack_archive(pieces, label, arrived)
    for name, path in files.items():
        assert (arrived / name).read_bytes() == path.read_bytes()
        assert int((arrived / name).stat().st_mtime) == int(path.stat().st_mtime)


def test_equal_files_have_one_label(files, tmp_path):
    assert sent(files, tmp_path)[0] == sent(dict(reversed(files.items())), tmp_path)[0]


def test_what_is_large_goes_in_pieces(files, arrived, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PIECE", 1000)
    label, pieces = sent(files, tmp_path)
    assert len(pieces) > 250
    assert max(map(len, pieces)) == 1000
    archive.unpack_archive(pieces, label, arrived)
    assert (arrived / "model.onnx").read_bytes() == files["model.onnx"].read_bytes()


@pytest.mark.parametrize("position", [0, 600, 200_000, -1])
def test_one_flipped_bit_anywhere_is_noticed_and_nothing_is_unpacked(files, arrived, tmp_path, position):
    label, pieces = sent(files, tmp_path)
    content = bytearray(b"".join(pieces))
    content[position] ^= 1
    with pytest.raises(CheckFailed, match="archive is damaged"):
        archive.unpack_archive([bytes(content)], label, arrived)
    assert not list(arrived.iterdir())


def test_a_missing_piece_is_noticed(files, arrived, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PIECE", 1000)
    label, pieces = sent(files, tmp_path)
    with pytest.raises(CheckFailed, match="archive is damaged"):
        archive.unpack_archive(pieces[:-1], label, arrived)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_path_that_leaves_the_folder_is_refused(arrived, tmp_path, name):
    with pytest.raises(CheckFailed, match="not a plain file within the folder"):
        archive.unpack_archive(*foreign(tarfile.TarInfo(name)), arrived)
    assert not (tmp_path / "outside").exists()


def test_a_link_is_refused(arrived):
    link = tarfile.TarInfo("model.onnx")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(CheckFailed, match="not a plain file within the folder"):
        archive.unpack_archive(*foreign(link), arrived)


def foreign(member):
    """An archive of one member, with the label that is right for it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member, io.BytesIO())
    content = buffer.getvalue()
    return [content], ArchiveLabel(hashlib.sha256(content).hexdigest(), len(content))
