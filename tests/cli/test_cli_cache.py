"""`deploykit cache`: contents, location, and clearing."""

import json
import os
import time

import pytest

from deploykit.core import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A separate cache for every test."""
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.CAP_VARIABLE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def cache_entries():
    """Two graphs and a verdict, the oldest first, last used so many days ago."""

    def entry(kind, key, size, days):
        built = cache.fetch_or_build(kind, {"key": key}, lambda path: (path / "file").write_bytes(b"x" * size))
        then = time.time() - 86400 * days
        os.utime(built, (then, then))
        return built

    return entry("graph", 1, 3 << 20, 40), entry("graph", 2, 1 << 20, 2), entry("verdict", 1, 100, 1)


@pytest.mark.usefixtures("cache_entries")
def test_ls_has_a_row_per_kind_and_their_sum(cli):
    result = cli("cache", "ls")
    assert result.code == 0
    rows = [line.split()[:4] for line in result.out.splitlines()]
    assert rows[0] == ["kind", "entries", "size", "last"]
    assert rows[1][:3] == ["graph", "2", "4.0"]
    assert rows[2][:2] == ["verdict", "1"]
    assert rows[3][:3] == ["all", "3", "4.0"]


def test_ls_of_a_kind_has_its_entries_the_last_used_first(cli, cache_entries):
    lines = cli("cache", "ls", "graph").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [cache_entries[1].name[:16], cache_entries[0].name[:16]]


def test_the_dates_are_those_of_the_last_use(cli, cache_entries):
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(cache_entries[0].stat().st_mtime))
    assert cli("cache", "ls", "graph").out.splitlines()[-1].endswith(date)


def test_an_empty_cache_is_reported_as_empty(cli):
    assert cli("cache", "ls").out == "the cache is empty\n"


@pytest.mark.usefixtures("cache_entries")
def test_info_shows_path_and_size(cli, folder):
    result = cli("cache", "info")
    assert result.code == 0
    assert result.out.splitlines()[0] == str(folder)
    assert "3 entries, 4.0 MiB of at most 20.0 GiB" in result.out
    assert f"DEPLOYKIT_CACHE_DIR={folder}" in result.out
    assert "DEPLOYKIT_CACHE_GIB is not set" in result.out
    assert " free on the disk" in result.out


def test_clear_reports_the_bytes_freed(cli, cache_entries):
    result = cli("cache", "clear", "--older-than", "30d")
    assert result.out.splitlines()[0] == "1 entry removed, 3.0 MiB freed"
    assert "2 entries kept, 1.0 MiB: used within 30 days, or in use now" in result.text
    assert [path.exists() for path in cache_entries] == [False, True, True]


@pytest.mark.usefixtures("cache_entries")
@pytest.mark.parametrize(("age", "left"), [("6w", 3), ("5w", 2), ("36h", 1), ("1m", 0)])
def test_ages_are_minutes_hours_days_and_weeks(cli, age, left):
    assert cli("cache", "clear", "--older-than", age).code == 0
    assert len(cache.list_entries()) == left


def test_clear_of_one_kind_preserves_the_others(cli, cache_entries):
    assert cli("cache", "clear", "graph").out == "2 entries removed, 4.0 MiB freed\n"
    assert [path.exists() for path in cache_entries] == [False, False, True]


def test_entries_in_use_are_preserved_and_reported(cli, cache_entries):
    os.utime(cache_entries[0])
    result = cli("cache", "clear")
    assert "1 entry kept, 3.0 MiB: used within 15 minutes, or in use now" in result.text
    assert cli("cache", "clear", "--older-than", "0m").out.startswith("1 entry removed, 3.0 MiB")


@pytest.mark.usefixtures("cache_entries")
@pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5d", "30 d", "1y"])
def test_an_invalid_age_is_a_usage_error(cli, age):
    result = cli("cache", "clear", "--older-than", age)
    assert result.code == 2
    assert "such as 30d or 12h" in result.text
    assert len(cache.list_entries()) == 3


@pytest.mark.usefixtures("cache_entries")
@pytest.mark.parametrize("verb", ["ls", "clear"])
def test_an_unknown_kind_is_a_usage_error(cli, verb):
    result = cli("cache", verb, "grap")
    assert result.code == 2
    assert "did you mean graph?" in result.text


def test_a_cap_that_is_not_a_number_is_a_usage_error(cli, monkeypatch):
    monkeypatch.setenv(cache.CAP_VARIABLE, "20GB")
    assert cli("cache", "info").code == 2


@pytest.mark.usefixtures("cache_entries")
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["ls"], "cache-kinds"),
        (["ls", "graph"], "cache-entries"),
        (["info"], "cache-info"),
        (["clear", "--older-than", "30d"], "cache-cleared"),
    ],
)
def test_every_one_has_a_json_document(cli, words, kind):
    document = json.loads(cli("cache", *words, "--json").out)
    assert (document["deploykit"], document["kind"]) == (1, kind)


def test_times_in_json_are_utc(cli, cache_entries):
    newest = cli("cache", "ls", "graph", "--json").content[0]
    seconds = cache_entries[1].stat().st_mtime
    assert newest["used"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
    assert newest["used"].endswith("Z")


@pytest.mark.usefixtures("cache_entries")
def test_nothing_is_wider_than_80_columns(cli):
    for words in (["ls"], ["ls", "graph"]):
        assert max(map(len, cli("cache", *words).out.splitlines())) <= 80
