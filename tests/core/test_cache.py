import errno
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from deploykit.core import cache
from deploykit.core.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A separate cache for every test."""
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.CAP_VARIABLE, raising=False)
    return tmp_path / "cache"


class Build:
    """Writes a file, and counts its calls."""

    def __init__(self, size: int = 3) -> None:
        self.size = size
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"x" * self.size)


def fail_on_build(_: Path) -> None:
    pytest.fail("this was built before")


# ── Cache hits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_built_entry_exists():
    entry = cache.fetch_or_build("graph", {"a": 1}, Build())
    assert (entry / "inner" / "file").read_bytes() == b"xxx"


def test_equal_keys_are_built_once():
    build = Build()
    assert cache.fetch_or_build("graph", {"a": 1, "b": "2"}, build) == cache.fetch_or_build(
        "graph", {"b": "2", "a": 1}, build
    )
    assert build.calls == 1


@pytest.mark.parametrize(
    ("kind", "key"),
    [("graph", {"a": 2}), ("graph", {"a": "1"}), ("graph", {"b": 1}), ("graph", {"a": 1, "b": 1}), ("typed", {"a": 1})],
)
def test_a_different_key_is_a_different_entry(kind, key):
    build = Build()
    assert cache.fetch_or_build("graph", {"a": 1}, build) != cache.fetch_or_build(kind, key, build)
    assert build.calls == 2


def test_entries_are_in_the_folder_of_the_environment_variable(folder):
    assert cache.fetch_or_build("graph", {}, Build()).is_relative_to(folder / "graph")


def test_without_the_variable_entries_are_in_the_users_cache(monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/deploykit")


# ── Damaged ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    entry = cache.fetch_or_build("graph", {}, build)
    spoil(entry)
    assert cache.fetch_or_build("graph", {}, build) == entry
    assert build.calls == 2
    assert (entry / "inner" / "file").read_bytes() == b"xxx"


def test_files_added_to_an_entry_are_ignored():
    entry = cache.fetch_or_build("graph", {}, Build())
    (entry / "note").touch()
    assert cache.fetch_or_build("graph", {}, fail_on_build) == entry


# ── Failures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_build_leaves_no_files(folder):
    def fail(partial: Path) -> None:
        (partial / "file").touch()
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        cache.fetch_or_build("graph", {}, fail)
    assert list((folder / "graph").iterdir()) == []


def test_a_build_succeeds_after_a_failed_one():
    with pytest.raises(ZeroDivisionError):
        cache.fetch_or_build("graph", {}, lambda _: 1 / 0)
    build = Build()
    cache.fetch_or_build("graph", {}, build)
    assert build.calls == 1


def test_a_full_disk_is_explained_with_the_caches_remedy():
    def fill(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="is full") as caught:
        cache.fetch_or_build("graph", {}, fill)
    assert cache.FOLDER_VARIABLE in caught.value.remedy


def test_a_folder_that_cannot_be_created_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="cannot be written") as caught:
        cache.fetch_or_build("graph", {}, fail_on_build)
    assert cache.FOLDER_VARIABLE in caught.value.remedy


def test_a_lock_that_cannot_be_taken_is_explained(monkeypatch):
    def refuse(_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache.filelock.FileLock, "acquire", refuse)
    with pytest.raises(InputError, match="cannot be written: Read-only file system"):
        cache.fetch_or_build("graph", {}, fail_on_build)


# ── Several processes ─────────────────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import sys, time
from pathlib import Path
from deploykit.core.cache import fetch_or_build

def build(folder):
    with open(sys.argv[1], "a") as counter:
        counter.write("x")
    time.sleep(0.3)
    (folder / "file").write_text("whole")

entry = fetch_or_build("graph", {"shared": True}, build)
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


USER = """
import random, sys
from deploykit.core import cache

numbers = list(range(40))
random.Random(int(sys.argv[1])).shuffle(numbers)
for number in numbers:
    entry = cache.fetch_or_build("graph", {"key": number}, lambda folder: (folder / "file").write_text(str(number)))
    cache._evict_entries(0)  # as any build does where the cache is full
    assert (entry / "file").read_text() == str(number)
"""


def test_an_entry_in_use_is_not_evicted_or_cleared_by_another_process(folder):
    for number in range(0, 40, 2):
        set_age(
            cache.fetch_or_build(
                "graph", {"key": number}, lambda path, number=number: (path / "file").write_text(str(number))
            ),
            2,
        )
    users = [
        subprocess.Popen([sys.executable, "-c", USER, str(seed)], stderr=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    removed = 0
    while any(user.poll() is None for user in users):
        removed += cache.clear_cache().entries
    assert [user.communicate()[1] for user in users] == ["", "", ""]
    assert removed <= 20
    assert len(cache.list_entries("graph")) == 40
    assert list((folder / "graph").glob(".*")) == []


def test_a_build_may_fetch_another_entry():
    def outer(folder: Path) -> None:
        inner = cache.fetch_or_build("graph", {"inner": True}, Build())
        (folder / "copy").write_bytes((inner / "inner" / "file").read_bytes())

    entry = cache.fetch_or_build("typed", {}, outer)
    assert (entry / "copy").read_bytes() == b"xxx"


# ── Eviction ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cap(monkeypatch):
    """Set the cap, in bytes."""
    return lambda size: monkeypatch.setenv(cache.CAP_VARIABLE, repr(size / 2**30))


def create_entry(key: str, size: int, hours: float, kind: str = "graph") -> Path:
    """An entry last used that many hours ago."""
    entry = cache.fetch_or_build(kind, {"key": key}, Build(size))
    set_age(entry, hours)
    return entry


def set_age(path: Path, hours: float) -> None:
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def test_nothing_is_evicted_below_the_cap():
    entries = [create_entry(key, 1000, hours=100) for key in "abc"]
    assert all(entry.exists() for entry in entries)


def test_the_least_recently_used_entries_are_evicted(cap):
    middle, oldest, youngest = create_entry("b", 10_000, 3), create_entry("a", 10_000, 4), create_entry("c", 10_000, 2)
    cap(35_000)
    newest = create_entry("d", 10_000, 0)
    assert [entry.exists() for entry in (oldest, middle, youngest, newest)] == [False, True, True, True]


def test_fetching_counts_as_use(cap):
    older, newer = create_entry("a", 10_000, 300), create_entry("b", 10_000, 200)
    cache.fetch_or_build("graph", {"key": "a"}, fail_on_build)
    cap(25_000)
    create_entry("c", 10_000, 0)
    assert [older.exists(), newer.exists()] == [True, False]


def test_the_newest_entry_stays_even_above_the_cap(cap):
    old = create_entry("a", 1000, 100)
    cap(5000)
    new = create_entry("b", 50_000, 0)
    assert [old.exists(), new.exists()] == [False, True]


def test_entries_of_every_kind_count(cap):
    old = create_entry("a", 10_000, 100)
    cap(15_000)
    cache.fetch_or_build("latency", {}, Build(10_000))
    assert not old.exists()


def test_an_evicted_entry_is_built_again(cap):
    old = create_entry("a", 10_000, 100)
    cap(15_000)
    create_entry("b", 10_000, 0)
    build = Build()
    assert cache.fetch_or_build("graph", {"key": "a"}, build) == old
    assert build.calls == 1


def test_recently_used_entries_stay_whatever_the_cap(cap):
    recent, old = create_entry("a", 10_000, 0.2), create_entry("b", 10_000, 0.3)
    cap(100)
    create_entry("c", 10_000, 0)
    assert [recent.exists(), old.exists()] == [True, False]


def test_a_locked_entry_stays(cap):
    held, free = create_entry("a", 10_000, 5), create_entry("b", 10_000, 5)
    cap(100)
    with cache._lock_entry(held.name):
        create_entry("c", 10_000, 0)
    assert [held.exists(), free.exists()] == [True, False]


def test_an_entry_that_cannot_be_removed_is_not_an_error(cap, monkeypatch):
    foreign = create_entry("a", 10_000, 5)
    cap(100)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == foreign:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert create_entry("b", 1000, 0).exists()
    assert foreign.exists()


def test_a_foreign_folder_with_the_name_of_an_entry_is_ignored(folder, cap):
    pretender = folder / "graph" / ("0" * 64)
    pretender.mkdir(parents=True)
    (pretender / "thesis.tex").write_text("not ours")
    set_age(pretender, 1000)
    cap(0)
    create_entry("a", 1000, 0)
    cache.clear_cache(unused_for=timedelta(0))
    assert (pretender / "thesis.tex").exists()


def test_partial_folders_of_killed_processes_are_removed_after_a_day(folder):
    digest = "a" * 64
    names = {
        f".{digest}.partial-1-abc": 25,  # possibly of another host: its process id is meaningless on this one
        f".{digest}.partial-2-old": 25,
        f".{digest}.partial-3-abc": 23,
        f".{digest[:-1]}.partial-4-abc": 25,
        ".notes.partial-5": 25,
    }
    for name, hours in names.items():
        (folder / "graph" / name).mkdir(parents=True)
        (folder / "graph" / name / "half").write_text("")
        set_age(folder / "graph" / name, hours)
    cache.fetch_or_build("verdict", {}, Build())
    assert {path.name for path in (folder / "graph").iterdir()} == set(list(names)[2:])


@pytest.mark.parametrize("text", ["20GB", "many", "nan", "-1", "1,5"])
def test_an_invalid_cap_is_refused_before_any_work(text, monkeypatch):
    monkeypatch.setenv(cache.CAP_VARIABLE, text)
    with pytest.raises(UsageError, match=f"DEPLOYKIT_CACHE_GIB='{text}' is not a number of GiB") as caught:
        cache.fetch_or_build("graph", {}, fail_on_build)
    assert "such as 20" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "0.5", "20", "inf", "0"])
def test_a_numeric_cap_is_accepted(text, monkeypatch):
    monkeypatch.setenv(cache.CAP_VARIABLE, text)
    assert cache.fetch_or_build("graph", {}, Build()).exists()


# ── Listing and clearing ──────────────────────────────────────────────────────────────────────────────────────────────


def test_entries_are_listed_most_recently_used_first():
    older, newer = create_entry("a", 1000, 30), create_entry("b", 2000, 20)
    entries = cache.list_entries()
    assert [entry.folder for entry in entries] == [newer, older]
    assert [entry.kind for entry in entries] == ["graph", "graph"]
    assert entries[0].bytes > entries[1].bytes > 1000
    assert abs(datetime.now(timezone.utc) - entries[0].used - timedelta(hours=20)) < timedelta(minutes=5)


def test_kinds_sum_their_entries():
    create_entry("a", 1000, 30), create_entry("b", 2000, 20), create_entry("c", 500, 10, kind="answers")
    answers, graph = cache.summarize_kinds()
    assert (answers.kind, answers.entries, graph.kind, graph.entries) == ("answers", 1, "graph", 2)
    assert graph.bytes == sum(entry.bytes for entry in cache.list_entries("graph"))
    assert graph.used == cache.list_entries("graph")[0].used


def test_a_missing_cache_folder_is_empty(folder):
    assert (cache.list_entries(), cache.summarize_kinds(), cache.clear_cache().entries) == ((), (), 0)
    assert not folder.exists()


def test_cache_info_counts_entries_and_other_files(folder, monkeypatch):
    create_entry("a", 1000, 0)
    (folder / "timing").mkdir()
    (folder / "timing" / "h200.cache").write_bytes(b"x" * 700)
    monkeypatch.setenv(cache.CAP_VARIABLE, "0.5")
    info = cache.describe_cache()
    assert (info.folder, info.entries, info.bytes) == (str(folder), 1, cache.list_entries()[0].bytes)
    assert (info.other_bytes, info.cap_bytes) == (700, 2**29)
    assert info.free_bytes > 0
    assert info.variables == {cache.FOLDER_VARIABLE: str(folder), cache.CAP_VARIABLE: "0.5"}


def test_an_infinite_cap_is_reported_as_none(monkeypatch):
    monkeypatch.setenv(cache.CAP_VARIABLE, "inf")
    assert cache.describe_cache().cap_bytes is None


def test_clear_removes_entries_that_were_not_used_recently():
    old, recent = create_entry("a", 1000, 2), create_entry("b", 2000, 0.1)
    sizes = {entry.folder: entry.bytes for entry in cache.list_entries()}
    assert cache.clear_cache() == cache.ClearResult(1, sizes[old], 1, sizes[recent])
    assert [old.exists(), recent.exists()] == [False, True]


@pytest.mark.parametrize(("hours", "left"), [(48, 2), (24, 1), (0, 0)])
def test_clear_removes_entries_unused_for_the_given_time(hours, left):
    create_entry("a", 1000, 30), create_entry("b", 1000, 2)
    cache.clear_cache(unused_for=timedelta(hours=hours))
    assert len(cache.list_entries()) == left


def test_clear_removes_only_the_given_kind():
    graph, answers = create_entry("a", 1000, 2), create_entry("a", 1000, 2, kind="answers")
    assert cache.clear_cache("graph").entries == 1
    assert [graph.exists(), answers.exists()] == [False, True]
    assert cache.clear_cache("graph").entries == 0  # still listed, and empty


def test_an_entry_being_built_is_not_cleared():
    entry = create_entry("a", 1000, 2)
    with cache._lock_entry(entry.name):
        assert cache.clear_cache(unused_for=timedelta(0)).spared_entries == 1
    assert entry.exists()


def test_an_unknown_kind_suggests_similar_kinds():
    create_entry("a", 1000, 2)
    with pytest.raises(UsageError, match="unknown kind of entry 'grph'; did you mean graph"):
        cache.clear_cache("grph")


@pytest.mark.parametrize("kind", ["..", "../outside", ".", "graph/..", ""])
def test_a_kind_cannot_name_a_folder_outside_the_cache(folder, kind):
    outside = folder.parent / "outside" / ("f" * 64)
    outside.mkdir(parents=True)
    (outside / cache.SEAL).write_text("[]")
    set_age(outside, 1000)
    create_entry("a", 1000, 2)
    with pytest.raises(UsageError):
        cache.clear_cache(kind)
    assert outside.exists()
    assert len(cache.list_entries()) == 1


def test_a_folder_of_other_files_is_not_cleared(folder):
    create_entry("a", 1000, 2)
    (folder / "timing").mkdir()
    (folder / "timing" / "h200.cache").write_text("timings")
    with pytest.raises(UsageError, match="holds other files, but no cache entries"):
        cache.clear_cache("timing")
    cache.clear_cache()
    assert (folder / "timing" / "h200.cache").read_text() == "timings"


def test_an_entry_that_is_a_link_is_not_removed(folder, tmp_path):
    elsewhere = create_entry("a", 1000, 2).rename(tmp_path / "elsewhere")
    link = folder / "graph" / ("1" * 64)
    link.symlink_to(elsewhere)
    assert cache.clear_cache().entries == 0
    assert (elsewhere / "inner" / "file").exists()
