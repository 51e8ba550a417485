import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploykit import cache
from deploykit.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.CAP_VARIABLE, raising=False)
    return tmp_path / "cache"


class Build:
    """Writes a file, and counts how often it is asked to."""

    def __init__(self, size: int = 3) -> None:
        self.size = size
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"x" * self.size)


def never(_: Path) -> None:
    pytest.fail("this was built before")


# ── Found again ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_built_is_there():
    entry = cache.fetch("graph", {"a": 1}, Build())
    assert (entry / "inner" / "file").read_bytes() == b"xxx"


def test_equal_keys_are_built_once():
    build = Build()
    assert cache.fetch("graph", {"a": 1, "b": "2"}, build) == cache.fetch("graph", {"b": "2", "a": 1}, build)
    assert build.calls == 1


@pytest.mark.parametrize(
    ("kind", "key"),
    [("graph", {"a": 2}), ("graph", {"a": "1"}), ("graph", {"b": 1}), ("graph", {"a": 1, "b": 1}), ("typed", {"a": 1})],
)
def test_anything_else_is_another_entry(kind, key):
    build = Build()
    assert cache.fetch("graph", {"a": 1}, build) != cache.fetch(kind, key, build)
    assert build.calls == 2


def test_entries_lie_in_the_folder_that_the_environment_names(folder):
    assert cache.fetch("graph", {}, Build()).is_relative_to(folder / "graph")


def test_without_the_variable_they_lie_in_the_users_cache(monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.folder() == Path("/somewhere/deploykit")


# ── Damaged ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: (entry / "inner" / "file").unlink(),
        lambda entry: (entry / "inner" / "file").write_bytes(b"xx"),
        lambda entry: (entry / "inner" / "file").write_bytes(b"xxy"),
        lambda entry: (entry / cache.SEAL).unlink(),
        lambda entry: (entry / cache.SEAL).write_bytes(b"[{"),
        lambda entry: (entry / cache.SEAL).write_bytes(b'{"path": "inner/file"}'),
    ],
    ids=["missing", "resized", "flipped", "unsealed", "seal cut short", "seal of another shape"],
)
def test_a_damaged_entry_is_built_again(spoil):
    build = Build()
    entry = cache.fetch("graph", {}, build)
    spoil(entry)
    assert cache.fetch("graph", {}, build) == entry
    assert build.calls == 2
    assert (entry / "inner" / "file").read_bytes() == b"xxx"


def test_what_was_added_to_an_entry_does_no_harm():
    entry = cache.fetch("graph", {}, Build())
    (entry / "note").touch()
    assert cache.fetch("graph", {}, never) == entry


# ── Failures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_build_that_fails_leaves_nothing(folder):
    def fail(partial: Path) -> None:
        (partial / "file").touch()
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        cache.fetch("graph", {}, fail)
    assert list((folder / "graph").iterdir()) == []


def test_after_a_build_that_failed_the_next_one_may_succeed():
    with pytest.raises(ZeroDivisionError):
        cache.fetch("graph", {}, lambda _: 1 / 0)
    build = Build()
    cache.fetch("graph", {}, build)
    assert build.calls == 1


def test_a_full_disk_is_explained_with_the_caches_remedy():
    def fill(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="is full") as caught:
        cache.fetch("graph", {}, fill)
    assert cache.FOLDER_VARIABLE in caught.value.remedy


def test_a_folder_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="cannot be written") as caught:
        cache.fetch("graph", {}, never)
    assert cache.FOLDER_VARIABLE in caught.value.remedy


def test_a_lock_that_cannot_be_taken_is_explained(monkeypatch):
    def refuse(_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache.filelock.FileLock, "acquire", refuse)
    with pytest.raises(InputError, match="cannot be written: Read-only file system"):
        cache.fetch("graph", {}, never)


# ── Several processes ───────────────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import sys, time
from pathlib import Path
from deploykit.cache import fetch

def build(folder):
    with open(sys.argv[1], "a") as counter:
        counter.write("x")
    time.sleep(0.3)
    (folder / "file").write_text("whole")

entry = fetch("graph", {"shared": True}, build)
assert (entry / "file").read_text() == "whole"
print(entry)
"""


def test_several_processes_build_once(tmp_path):
    counter = tmp_path / "counter"
    command = [sys.executable, "-c", PROGRAM, str(counter)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1
    assert counter.read_text() == "x"


def test_a_build_may_fetch_another_entry():
    def outer(folder: Path) -> None:
        inner = cache.fetch("graph", {"inner": True}, Build())
        (folder / "copy").write_bytes((inner / "inner" / "file").read_bytes())

    entry = cache.fetch("typed", {}, outer)
    assert (entry / "copy").read_bytes() == b"xxx"


# ── Eviction ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cap(monkeypatch):
    """Set the cap, in bytes."""
    return lambda size: monkeypatch.setenv(cache.CAP_VARIABLE, repr(size / 2**30))


def filled(key: str, size: int, age_s: float) -> Path:
    """An entry that was last used so long ago."""
    entry = cache.fetch("graph", {"key": key}, Build(size))
    then = time.time() - age_s
    os.utime(entry, (then, then))
    return entry


def test_nothing_goes_while_everything_fits():
    entries = [filled(key, 1000, age_s=100) for key in "abc"]
    assert all(entry.exists() for entry in entries)


def test_the_longest_unused_go_until_the_rest_fits(cap):
    middle, oldest, youngest = filled("b", 10_000, 200), filled("a", 10_000, 300), filled("c", 10_000, 100)
    cap(35_000)
    newest = filled("d", 10_000, 0)
    assert [entry.exists() for entry in (oldest, middle, youngest, newest)] == [False, True, True, True]


def test_fetching_counts_as_use(cap):
    older, newer = filled("a", 10_000, 300), filled("b", 10_000, 200)
    cache.fetch("graph", {"key": "a"}, never)
    cap(25_000)
    filled("c", 10_000, 0)
    assert [older.exists(), newer.exists()] == [True, False]


def test_the_newest_stays_even_if_it_alone_is_too_large(cap):
    old = filled("a", 1000, 100)
    cap(5000)
    new = filled("b", 50_000, 0)
    assert [old.exists(), new.exists()] == [False, True]


def test_entries_of_every_kind_count(cap):
    old = filled("a", 10_000, 100)
    cap(15_000)
    cache.fetch("latency", {}, Build(10_000))
    assert not old.exists()


def test_an_entry_that_went_is_built_again(cap):
    old = filled("a", 10_000, 100)
    cap(15_000)
    filled("b", 10_000, 0)
    build = Build()
    assert cache.fetch("graph", {"key": "a"}, build) == old
    assert build.calls == 1


def test_an_entry_that_another_process_is_removing_does_no_harm(monkeypatch, cap):
    filled("a", 1000, 100)
    cap(500)
    rglob = Path.rglob

    def vanishing(path: Path, pattern: str):
        if path.name != cache.SEAL and path.parent.name == "graph" and not path.name.startswith("."):
            raise FileNotFoundError(path)
        return rglob(path, pattern)

    monkeypatch.setattr(Path, "rglob", vanishing)
    assert filled("b", 1000, 0).exists()


@pytest.mark.parametrize("text", ["20GB", "many", "nan", "-1", "1,5"])
def test_a_cap_that_is_no_number_is_refused_before_any_work(text, monkeypatch):
    monkeypatch.setenv(cache.CAP_VARIABLE, text)
    with pytest.raises(UsageError, match=f"DEPLOYKIT_CACHE_GIB='{text}' is not a number of GiB") as caught:
        cache.fetch("graph", {}, never)
    assert "such as 20" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "0.5", "20", "inf", "0"])
def test_a_cap_that_is_a_number_is_taken(text, monkeypatch):
    monkeypatch.setenv(cache.CAP_VARIABLE, text)
    assert cache.fetch("graph", {}, Build()).exists()
