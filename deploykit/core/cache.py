"""The content-addressed cache of stage results.

An entry is a folder named after the SHA-256 of its key. It is written atomically; one process builds it while others
wait. If the cache exceeds its cap, the least recently used entries are removed.

Several processes can use the cache at once. An entry is removed only under its lock, and not within fifteen minutes of
its last use, so that a process that fetched it can read it. During that time a fast-growing cache may exceed its cap.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import filelock
import msgspec
import platformdirs

from deploykit.core.errors import InputError, UsageError, format_unknown
from deploykit.core.files import ABANDONED, explain_os_error, find_damage, record_file, stage_folder
from deploykit.core.values import FileRecord, Value

FOLDER_VARIABLE: Final = "DEPLOYKIT_CACHE_DIR"
CAP_VARIABLE: Final = "DEPLOYKIT_CACHE_GIB"
DEFAULT_CAP_GIB: Final = 20.0
REMEDY: Final = f"Free some space (deploykit cache clear does), or point {FOLDER_VARIABLE} at another folder."

IN_USE: Final = timedelta(minutes=15)
"""Time after its last use during which an entry is not removed. Longer is not possible: an hour of exports can fill a
disk."""


class CacheEntry(Value, frozen=True):
    """One cached result."""

    kind: str
    """The stage that built it, such as `graph`."""
    digest: str
    """SHA-256 of the key."""
    bytes: int
    used: datetime
    """Time of the last fetch, UTC."""

    @property
    def folder(self) -> Path:
        """Path of the entry."""
        return cache_folder() / self.kind / self.digest


class CacheKind(Value, frozen=True):
    """Totals of one kind of entry."""

    kind: str
    entries: int
    bytes: int
    used: datetime


class CacheInfo(Value, frozen=True):
    """Location and size of the cache."""

    folder: str
    entries: int
    bytes: int
    """Size of the entries."""
    other_bytes: int
    """Size of everything else in the folder: timing caches, compiled kernels, locks."""
    cap_bytes: int | None
    """Largest total size of the entries; None: unlimited."""
    free_bytes: int
    """Free space on the cache's disk."""
    variables: Mapping[str, str | None]
    """Environment variables that configure the cache; None: not set."""


class ClearResult(Value, frozen=True):
    """Removed entries, and spared ones that were used too recently or are in use."""

    entries: int
    bytes: int
    spared_entries: int
    spared_bytes: int


def cache_folder() -> Path:
    """The cache folder: $DEPLOYKIT_CACHE_DIR, or the user's cache folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_dir("deploykit"))


def fetch_or_build(kind: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """Return the entry for this key; on a miss, `build` fills its folder first.

    `key` must contain everything that determines the result. A damaged entry is built again.
    """
    digest = hashlib.sha256(msgspec.json.encode({"kind": kind, **key}, order="deterministic")).hexdigest()
    entry = cache_folder() / kind / digest
    cap_bytes = _cap_bytes()  # read first, so that an invalid cap is refused before the work
    with _lock_entry(digest):
        if not _is_intact(entry):
            with stage_folder(entry, REMEDY) as partial:
                build(partial)
                _write_seal(partial)
            _evict_entries(cap_bytes)  # does not remove this entry, whose lock is held
        os.utime(entry)
    return entry


def list_entries(kind: str | None = None) -> tuple[CacheEntry, ...]:
    """List all entries, or those of one kind, most recently used first. UsageError for an unknown kind."""
    paths = sorted(cache_folder().glob("*/" + "[0-9a-f]" * 64))
    if kind is not None:
        _require_known_kind(kind, {path.parent.name for path in paths})
        paths = [path for path in paths if path.parent.name == kind]
    return tuple(sorted(filter(None, map(_read_entry, paths)), key=lambda entry: entry.used, reverse=True))


def summarize_kinds() -> tuple[CacheKind, ...]:
    """Sum entries and sizes by kind."""
    by_kind: dict[str, list[CacheEntry]] = {}
    for entry in list_entries():
        by_kind.setdefault(entry.kind, []).append(entry)
    return tuple(
        CacheKind(kind, len(group), sum(entry.bytes for entry in group), max(entry.used for entry in group))
        for kind, group in sorted(by_kind.items())
    )


def describe_cache() -> CacheInfo:
    """Report location, size and cap of the cache. UsageError for a cap that is not a number."""
    cap, entries = _cap_bytes(), list_entries()
    counted = {entry.folder for entry in entries}
    existing = next(path for path in (cache_folder(), *cache_folder().parents) if path.exists())
    return CacheInfo(
        str(cache_folder()),
        len(entries),
        sum(entry.bytes for entry in entries),
        sum(_disk_usage(path) for path in cache_folder().glob("*/*") if path not in counted),
        int(cap) if math.isfinite(cap) else None,
        shutil.disk_usage(existing).free,
        {name: os.environ.get(name) or None for name in (FOLDER_VARIABLE, CAP_VARIABLE)},
    )


def clear_cache(kind: str | None = None, unused_for: timedelta = IN_USE) -> ClearResult:
    """Remove entries, all or of one kind, that were not used for `unused_for`, and leftovers of killed processes.

    Entries being fetched or built stay, and so do files that are not entries. UsageError for an unknown kind,
    InputError if the disk refuses.
    """
    removed: list[CacheEntry] = []
    spared: list[CacheEntry] = []
    for entry in list_entries(kind):
        (removed if _remove_entry(entry, unused_for) else spared).append(entry)
    _remove_abandoned()
    return ClearResult(
        len(removed), sum(entry.bytes for entry in removed), len(spared), sum(entry.bytes for entry in spared)
    )


def _require_known_kind(kind: str, kinds: Collection[str]) -> None:
    """UsageError for a kind that the cache neither has nor had."""
    if kind in kinds:
        return
    subfolder = cache_folder() / kind
    if subfolder.parent == cache_folder() and subfolder.is_dir():
        if any(subfolder.iterdir()):
            raise UsageError(f"{subfolder} holds other files, but no cache entries.", "See deploykit cache ls.")
    elif kinds:
        raise UsageError(format_unknown("kind of entry", kind, kinds), "")


def _read_entry(path: Path) -> CacheEntry | None:
    """Read one entry; None for a folder that is not an entry, or that another process is removing."""
    try:
        if path.is_symlink() or not (path / SEAL).is_file():
            return None
        used = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    except FileNotFoundError:
        return None
    return CacheEntry(path.parent.name, path.name, _disk_usage(path), used)


def _disk_usage(path: Path) -> int:
    """Size of a file, or of all files below a folder, without those that another process is removing."""
    with suppress(FileNotFoundError):
        if not path.is_dir():
            return path.lstat().st_size
    total = 0
    for parent, _, files in os.walk(path):
        for name in files:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).lstat().st_size
    return total


@contextmanager
def _lock_entry(digest: str, wait: bool = True) -> Iterator[bool]:
    """Hold the entry's lock. Yields whether it was acquired, which is always true with `wait`."""
    path = cache_folder() / "locks" / f"{digest}.lock"
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise explain_os_error(error, cache_folder(), REMEDY) from error
    try:
        yield True
    finally:
        lock.release()


def _remove_entry(entry: CacheEntry, unused_for: timedelta) -> bool:
    """Remove an entry if it is unused; returns whether it was removed. It is renamed first, so that no process reads a
    partial entry.
    """
    aside = entry.folder.with_name(f".{entry.digest}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    with _lock_entry(entry.digest, wait=False) as acquired:
        try:
            if not acquired or _unused_time(entry.folder) < unused_for:
                return False
            entry.folder.rename(aside)
        except FileNotFoundError:  # another process removed it first
            return False
        except OSError as error:
            raise explain_os_error(error, entry.folder, "Check the owner of the folder.") from error
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _unused_time(path: Path) -> timedelta:
    return datetime.now(timezone.utc) - datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)


def _remove_abandoned() -> None:
    """Remove partial folders of killed processes after a day, when no host can still be writing them."""
    for path in cache_folder().glob("*/.*.partial-*"):
        with suppress(FileNotFoundError):
            if PARTIAL.fullmatch(path.name) and path.is_dir() and _unused_time(path) > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


PARTIAL: Final = re.compile(r"\.[0-9a-f]{64}\.partial-.+")

SEAL: Final = "files.json"


def _write_seal(entry: Path) -> None:
    files = [record_file(entry, str(path.relative_to(entry))) for path in sorted(entry.rglob("*")) if path.is_file()]
    (entry / SEAL).write_bytes(msgspec.json.encode(files))


def _is_intact(entry: Path) -> bool:
    try:
        files = msgspec.json.decode((entry / SEAL).read_bytes(), type=list[FileRecord])
    except (OSError, msgspec.MsgspecError):
        return False
    return all(find_damage(entry, file) is None for file in files)


def _evict_entries(cap_bytes: float) -> None:
    """Remove the least recently used entries until the rest fits the cap, but none that may still be read."""
    total = 0
    for entry in list_entries():
        total += entry.bytes
        if total > cap_bytes:
            with suppress(InputError):  # owned by another user: no reason for this process to fail
                _remove_entry(entry, IN_USE)
    _remove_abandoned()


def _cap_bytes() -> float:
    text = os.environ.get(CAP_VARIABLE) or str(DEFAULT_CAP_GIB)
    try:
        cap = float(text)
    except ValueError:
        cap = math.nan
    if not cap >= 0:  # NaN would never evict, and a negative cap would evict everything
        raise UsageError(f"{CAP_VARIABLE}={text!r} is not a number of GiB.", "Set it to a number such as 20.")
    return cap * 2**30
