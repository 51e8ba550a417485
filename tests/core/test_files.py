import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.errors import InputError
from deploykit.core.files import (
    find_damage,
    hash_file,
    link_or_copy,
    owner_tag,
    record_file,
    replace_file,
    stage_folder,
)
from deploykit.core.values import FileRecord


def write(folder: Path, text: str = "new") -> None:
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    (folder / "inner" / "file").write_text(text)


def read_content(folder: Path) -> str:
    return (folder / "inner" / "file").read_text()


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "there"


@pytest.fixture
def existing_folder(destination):
    """An existing folder at the destination."""
    write(destination, "old")
    (destination / "only in the old one").touch()
    return destination


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ── Atomic creation of folders ────────────────────────────────────────────────────────────────────────────────────────


def test_written_files_exist_after_the_block(destination):
    with stage_folder(destination) as folder:
        write(folder)
        assert not destination.exists()
    assert read_content(destination) == "new"
    assert list_names(destination.parent) == ["there"]


def test_parent_folders_are_created(tmp_path):
    with stage_folder(tmp_path / "a" / "b" / "c") as folder:
        write(folder)
    assert read_content(tmp_path / "a" / "b" / "c") == "new"


def test_an_existing_folder_is_replaced_atomically(existing_folder):
    with stage_folder(existing_folder) as folder:
        write(folder)
        assert read_content(existing_folder) == "old"
    assert list_names(existing_folder) == ["inner"]
    assert list_names(existing_folder.parent) == ["there"]


def test_the_folder_has_the_permissions_of_the_umask(destination):
    before = os.umask(0o027)
    try:
        with stage_folder(destination) as folder:
            write(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(destination.stat().st_mode) == 0o750


def test_a_name_with_glob_characters_is_not_a_pattern(tmp_path, dead_process):
    write(tmp_path / f".model[0]*.partial-{dead_process}-abc")
    with stage_folder(tmp_path / "model[0]*") as folder:
        write(folder)
    assert list_names(tmp_path) == ["model[0]*"]


# ── Failed creation of folders ────────────────────────────────────────────────────────────────────────────────────────


class WriteFailed(Exception):
    pass


def write_and_fail(folder: Path) -> None:
    write(folder)
    raise WriteFailed


def test_an_exception_leaves_no_files(destination):
    with pytest.raises(WriteFailed), stage_folder(destination) as folder:
        write_and_fail(folder)
    assert list_names(destination.parent) == []


def test_an_exception_preserves_the_old_folder(existing_folder):
    with pytest.raises(WriteFailed), stage_folder(existing_folder) as folder:
        write_and_fail(folder)
    assert read_content(existing_folder) == "old"
    assert list_names(existing_folder.parent) == ["there"]


def test_an_interruption_leaves_no_files(destination):
    with pytest.raises(KeyboardInterrupt), stage_folder(destination):
        raise KeyboardInterrupt
    assert list_names(destination.parent) == []


def test_the_old_folder_is_restored_if_it_cannot_be_replaced(existing_folder, monkeypatch):
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == existing_folder and not path.name.endswith("-old"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(InputError, match="there cannot be written: Permission denied"),
        stage_folder(existing_folder) as folder,
    ):
        write(folder)
    assert read_content(existing_folder) == "old"
    assert list_names(existing_folder.parent) == ["there"]


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "existing"])
def test_a_folder_that_another_process_wrote_in_the_meantime_is_preserved(destination, monkeypatch, replaces):
    rename = Path.rename

    def overtake(path: Path, target: Path) -> Path:
        if target == destination:
            write(destination, "theirs")
        return rename(path, target)

    if replaces:
        write(destination, "old")
    monkeypatch.setattr(Path, "rename", overtake)
    with pytest.raises(InputError, match="another process"), stage_folder(destination) as folder:
        write(folder)
    assert read_content(destination) == "theirs"
    assert list_names(destination.parent) == ["there"]


# ── Leftovers of killed processes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def dead_process() -> str:
    """The owner tag of an ended process."""
    program = "from deploykit.core.files import owner_tag; print(owner_tag())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def process_elsewhere(dead_process: str) -> str:
    """The owner tag of a process of another host, which may run, whatever a process of that id does here."""
    machine, process_id = dead_process.split("-")
    return f"{int(machine, 16) ^ 1:08x}-{process_id}"


def test_a_partial_folder_of_a_dead_process_is_swept(destination, dead_process):
    write(destination.with_name(f".there.partial-{dead_process}-abc"))
    with stage_folder(destination) as folder:
        write(folder)
    assert list_names(destination.parent) == ["there"]


def test_a_partial_folder_of_a_running_process_is_preserved(destination):
    machine, _ = owner_tag().split("-")
    living = destination.with_name(f".there.partial-{machine}-{os.getppid()}-abc")
    write(living, "theirs")
    with stage_folder(destination) as folder:
        write(folder)
    assert read_content(living) == "theirs"


@pytest.mark.parametrize("suffix", ["abc", "old"])
def test_a_partial_folder_of_another_host_is_preserved(destination, process_elsewhere, suffix):
    theirs = destination.with_name(f".there.partial-{process_elsewhere}-{suffix}")
    write(theirs, "theirs")
    with stage_folder(destination) as folder:
        write(folder)
    assert read_content(theirs) == "theirs"


@pytest.mark.parametrize("old_name", [False, True], ids=["of another host", "of a version that named no host"])
def test_a_partial_folder_is_swept_after_a_day(destination, process_elsewhere, monkeypatch, old_name):
    owner = process_elsewhere.split("-")[1] if old_name else process_elsewhere
    write(destination.with_name(f".there.partial-{owner}-abc"))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400 + 60)
    with stage_folder(destination) as folder:
        write(folder)
    assert list_names(destination.parent) == ["there"]


def test_a_folder_of_another_naming_is_preserved(destination):
    other = destination.with_name(".there.partial-notes")
    write(other)
    with stage_folder(destination) as folder:
        write(folder)
    assert other.exists()


def test_a_partial_folder_of_another_destination_is_preserved(destination, dead_process):
    other = destination.with_name(f".elsewhere.partial-{dead_process}-abc")
    write(other)
    with stage_folder(destination) as folder:
        write(folder)
    assert other.exists()


def test_a_folder_moved_aside_by_a_dead_process_is_removed_once_replaced(existing_folder, dead_process):
    aside = existing_folder.with_name(f".there.partial-{dead_process}-old")
    write(aside, "older")
    with pytest.raises(WriteFailed), stage_folder(existing_folder) as folder:
        write_and_fail(folder)
    assert list_names(existing_folder.parent) == ["there"]
    assert read_content(existing_folder) == "old"


def test_a_folder_moved_aside_by_a_dead_process_is_restored(destination, dead_process):
    write(destination.with_name(f".there.partial-{dead_process}-old"), "old")
    write(destination.with_name(f".there.partial-{dead_process}-abc"), "unfinished")
    with pytest.raises(WriteFailed), stage_folder(destination) as folder:
        write_and_fail(folder)
    assert list_names(destination.parent) == ["there"]
    assert read_content(destination) == "old"


def test_a_killed_process_preserves_the_old_folder_and_the_next_one_cleans_up(existing_folder):
    program = f"""
import os, signal
from pathlib import Path
from deploykit.core.files import stage_folder
with stage_folder(Path({str(existing_folder)!r})) as folder:
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert read_content(existing_folder) == "old"
    assert len(list_names(existing_folder.parent)) == 2
    with stage_folder(existing_folder) as folder:
        write(folder)
    assert list_names(existing_folder.parent) == ["there"]


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"new", bytearray(b"new"), memoryview(b"new")])
def test_a_file_is_replaced_by_any_buffer_object(tmp_path, content):
    (tmp_path / "file").write_bytes(b"something old and longer")
    replace_file(tmp_path / "file", content, "")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert list_names(tmp_path) == ["file"]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with (tmp_path / "file").open("rb") as reader:
        replace_file(tmp_path / "file", b"new", "")
        assert reader.read() == b"old"


def test_the_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "file", b"new", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_incomplete_write_preserves_the_old_file(tmp_path, monkeypatch, number):
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError) as caught:
        replace_file(tmp_path / "file", b"new", "Buy a disk.")
    assert str(tmp_path / "file") in caught.value.what
    assert caught.value.remedy == "Buy a disk."
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list_names(tmp_path) == ["file"]


def test_an_interrupted_write_preserves_the_old_file(tmp_path, monkeypatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "file", b"new", "")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list_names(tmp_path) == ["file"]


def test_a_file_in_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(InputError, match="absent/file cannot be written: No such file or directory"):
        replace_file(tmp_path / "absent" / "file", b"new", "")


def test_a_file_is_linked_in_place_of_another(tmp_path):
    for name in ("source", "target"):
        (tmp_path / name).write_text(name)
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "source").samefile(tmp_path / "target")


def test_a_file_on_another_disk_is_copied(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    (tmp_path / "source").write_text("content")
    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "content"


# ── Disks and permissions ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_writing_is_explained(existing_folder, number):
    with pytest.raises(InputError) as caught, stage_folder(existing_folder, "Buy a disk."):
        raise OSError(number, os.strerror(number))
    assert caught.value.what == f"The disk that holds {existing_folder} is full."
    assert caught.value.remedy == "Buy a disk."
    assert read_content(existing_folder) == "old"
    assert list_names(existing_folder.parent) == ["there"]


def test_a_disk_that_turns_out_full_at_the_end_is_explained(existing_folder, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="is full"), stage_folder(existing_folder) as folder:
        write(folder)
    assert read_content(existing_folder) == "old"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_parent_that_cannot_be_written_is_explained(destination, monkeypatch, number):
    def refuse(**_: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError) as caught, stage_folder(destination):
        pytest.fail("the block is not entered")
    assert str(destination) in caught.value.what
    assert "-o" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_parent_is_explained(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="cannot be written: Permission denied"), stage_folder(tmp_path / "there"):
        pytest.fail("the block is not entered")


def test_a_parent_that_is_a_file_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="there cannot be written"), stage_folder(tmp_path / "file" / "there"):
        pytest.fail("the block is not entered")


def test_an_error_not_caused_by_the_disk_propagates(destination):
    with pytest.raises(FileNotFoundError), stage_folder(destination) as folder:
        (folder / "missing").read_text()


# ── Digests ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=4096))
def test_a_digest_is_that_of_the_bytes(data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert hash_file(Path(file.name)) == hashlib.sha256(data).hexdigest()


def test_large_files_are_read_in_pieces(tmp_path):
    data = os.urandom(3 * 2**20 + 1)
    (tmp_path / "large").write_bytes(data)
    assert hash_file(tmp_path / "large") == hashlib.sha256(data).hexdigest()


def test_a_record_is_relative_to_its_folder(tmp_path):
    write(tmp_path, "abc")
    assert record_file(tmp_path, "inner/file") == FileRecord("inner/file", hashlib.sha256(b"abc").hexdigest(), 3)


@pytest.fixture
def recorded_file(tmp_path):
    """A folder, and the record of a file in it."""
    (tmp_path / "file").write_bytes(b"abc")
    return tmp_path, record_file(tmp_path, "file")


def test_an_unchanged_file_is_undamaged(recorded_file):
    assert find_damage(*recorded_file) is None


def test_a_missing_file_is_detected(recorded_file):
    (recorded_file[0] / "file").unlink()
    assert find_damage(*recorded_file) == "file is missing"


def test_a_folder_in_place_of_a_file_is_detected(recorded_file):
    (recorded_file[0] / "file").unlink()
    (recorded_file[0] / "file").mkdir()
    assert find_damage(*recorded_file) == "file is missing"


@pytest.mark.parametrize("data", [b"", b"ab", b"abcd"])
def test_a_resized_file_is_detected(recorded_file, data):
    (recorded_file[0] / "file").write_bytes(data)
    assert find_damage(*recorded_file) == f"file has {len(data)} bytes instead of 3"


def test_a_flipped_bit_is_detected(recorded_file):
    (recorded_file[0] / "file").write_bytes(b"abb")
    assert find_damage(*recorded_file) == "file differs from its recorded SHA-256"
