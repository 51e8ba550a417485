"""Files as a stream: they arrive unchanged, or are refused."""

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
def destination(tmp_path):
    folder = tmp_path / "arrived"
    folder.mkdir()
    return folder


def pack(files, near):
    with archive.pack_files(files, near) as packed:
        return packed.label, list(packed.pieces())


def test_files_keep_their_content_and_times(files, destination, tmp_path):
    label, pieces = pack(files, tmp_path)
    archive.unpack_archive(pieces, label, destination)
    for name, path in files.items():
        assert (destination / name).read_bytes() == path.read_bytes()
        assert int((destination / name).stat().st_mtime) == int(path.stat().st_mtime)


def test_equal_files_have_equal_labels(files, tmp_path):
    assert pack(files, tmp_path)[0] == pack(dict(reversed(files.items())), tmp_path)[0]


def test_a_large_file_is_sent_in_pieces(files, destination, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PIECE", 1000)
    label, pieces = pack(files, tmp_path)
    assert len(pieces) > 250
    assert max(map(len, pieces)) == 1000
    archive.unpack_archive(pieces, label, destination)
    assert (destination / "model.onnx").read_bytes() == files["model.onnx"].read_bytes()


@pytest.mark.parametrize("position", [0, 600, 200_000, -1])
def test_a_flipped_bit_is_detected_before_anything_is_unpacked(files, destination, tmp_path, position):
    label, pieces = pack(files, tmp_path)
    content = bytearray(b"".join(pieces))
    content[position] ^= 1
    with pytest.raises(CheckFailed, match="archive is damaged"):
        archive.unpack_archive([bytes(content)], label, destination)
    assert not list(destination.iterdir())


def test_a_missing_piece_is_detected(files, destination, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PIECE", 1000)
    label, pieces = pack(files, tmp_path)
    with pytest.raises(CheckFailed, match="archive is damaged"):
        archive.unpack_archive(pieces[:-1], label, destination)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_path_outside_the_folder_is_refused(destination, tmp_path, name):
    with pytest.raises(CheckFailed, match="not a plain file within the folder"):
        archive.unpack_archive(*archive_of(tarfile.TarInfo(name)), destination)
    assert not (tmp_path / "outside").exists()


def test_a_link_is_refused(destination):
    link = tarfile.TarInfo("model.onnx")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(CheckFailed, match="not a plain file within the folder"):
        archive.unpack_archive(*archive_of(link), destination)


def archive_of(member):
    """An archive of one member, with its correct label."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member, io.BytesIO())
    content = buffer.getvalue()
    return [content], ArchiveLabel(hashlib.sha256(content).hexdigest(), len(content))
