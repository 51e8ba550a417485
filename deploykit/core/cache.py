"""The cache: what a stage made, found again by everything that determined it.

An entry is a folder named after the SHA-256 of its key. It appears whole or not at all, one process builds it while
others wait, and when the cache outgrows its cap the entries longest unused go first.

Several processes may use it at once. An entry is removed under its lock alone, and not within fifteen minutes of its
last use: whoever fetched it has that long to read it. For as long, a cache that fills fast may be larger than its cap.
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

from deploykit.core.errors import InputError, UsageError, unknown
from deploykit.core.files import damage, explained, record, staged
from deploykit.core.values import FileRecord, Value

FOLDER_VARIABLE: Final = "DEPLOYKIT_CACHE_DIR"
CAP_VARIABLE: Final = "DEPLOYKIT_CACHE_GIB"
DEFAULT_CAP_GIB: Final = 20.0
REMEDY: Final = f"Free some space (deploykit cache clear does), or point {FOLDER_VARIABLE} at another folder."

IN_USE: Final = timedelta(minutes=15)
"""After its last use, how long an entry may still be read by whoever fetched it. An hour of exports fills a disk."""

ABANDONED: Final = timedelta(days=1)
"""No build takes that long: a partial folder of this age was left by a process that was killed."""


class CacheEntry(Value, frozen=True):
    """One result that was kept."""

    kind: str
    """The stage that made it, such as `graph`."""
    digest: str
    """SHA-256 of its key."""
    bytes: int
    used: datetime
    """UTC: when it was last fetched."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return folder() / self.kind / self.digest


class CacheKind(Value, frozen=True):
    """All entries of one kind."""

    kind: str
    entries: int
    bytes: int
    used: datetime


class CacheInfo(Value, frozen=True):
    """Where the cache is, and what it takes."""

    folder: str
    entries: int
    bytes: int
    """Of its entries."""
    other_bytes: int
    """Of what lies beside them: timings, compiled kernels, locks."""
    cap_bytes: int | None
    """What entries may take; None: as much as there is."""
    free_bytes: int
    """On its disk."""
    variables: Mapping[str, str | None]
    """What the environment says; None: nothing."""


class Cleared(Value, frozen=True):
    """What was removed, and what stayed because it was used too recently, or was in use."""

    entries: int
    bytes: int
    spared_entries: int
    spared_bytes: int


def folder() -> Path:
    """Where entries live: $DEPLOYKIT_CACHE_DIR, or the user's cache folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_dir("deploykit"))


def fetch(kind: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """The folder that `build` filled for this key, now or before; its files are as `build` left them.

    `key` must hold all that determines the result. An entry whose files were damaged since is built again.
    """
    digest = hashlib.sha256(msgspec.json.encode({"kind": kind, **key}, order="deterministic")).hexdigest()
    entry = folder() / kind / digest
    cap_bytes = _cap_bytes()  # before the work: a cap that cannot be read is refused at once
    with _locked(digest):
        if not _intact(entry):
            with staged(entry, REMEDY) as partial:
                build(partial)
                _seal(partial)
            _evict(cap_bytes)  # this entry stays: its lock is taken
        os.utime(entry)
    return entry


def entries(kind: str | None = None) -> tuple[CacheEntry, ...]:
    """All entries, or those of one kind, the last used first. UsageError for a kind that the cache does not have."""
    paths = sorted(folder().glob("*/" + "[0-9a-f]" * 64))
    if kind is not None:
        _known(kind, {path.parent.name for path in paths})
        paths = [path for path in paths if path.parent.name == kind]
    return tuple(sorted(filter(None, map(_entry, paths)), key=lambda entry: entry.used, reverse=True))


def kinds() -> tuple[CacheKind, ...]:
    """A sum per kind, by name."""
    by_kind: dict[str, list[CacheEntry]] = {}
    for entry in entries():
        by_kind.setdefault(entry.kind, []).append(entry)
    return tuple(
        CacheKind(kind, len(each), sum(entry.bytes for entry in each), max(entry.used for entry in each))
        for kind, each in sorted(by_kind.items())
    )


def info() -> CacheInfo:
    """Where the cache is, what it takes, and what it may. UsageError for a cap that is no number."""
    cap, there = _cap_bytes(), entries()
    counted = {entry.folder for entry in there}
    existing = next(path for path in (folder(), *folder().parents) if path.exists())
    return CacheInfo(
        str(folder()),
        len(there),
        sum(entry.bytes for entry in there),
        sum(_bytes(path) for path in folder().glob("*/*") if path not in counted),
        int(cap) if math.isfinite(cap) else None,
        shutil.disk_usage(existing).free,
        {name: os.environ.get(name) or None for name in (FOLDER_VARIABLE, CAP_VARIABLE)},
    )


def clear(kind: str | None = None, unused_for: timedelta = IN_USE) -> Cleared:
    """Remove entries, all or of one kind, that were not used for so long; and what killed processes left behind.

    Entries that somebody fetches or builds at this moment stay, and so does what is no entry of ours. UsageError for a
    kind that the cache does not have, InputError where the disk refuses.
    """
    gone: list[CacheEntry] = []
    spared: list[CacheEntry] = []
    for entry in entries(kind):
        (gone if _remove(entry, unused_for) else spared).append(entry)
    _tidy()
    return Cleared(len(gone), sum(entry.bytes for entry in gone), len(spared), sum(entry.bytes for entry in spared))


def _known(kind: str, kinds: Collection[str]) -> None:
    """Nothing, where the cache has such entries, or had them."""
    if kind in kinds:
        return
    others = folder() / kind
    if others.parent == folder() and others.is_dir():
        if any(others.iterdir()):
            raise UsageError(f"{others} holds files of other kinds, and no entries.", "See deploykit cache ls.")
    elif kinds:
        raise UsageError(unknown("kind of entry", kind, kinds), "")


def _entry(path: Path) -> CacheEntry | None:
    """None of a folder that is no entry of ours, or that another process is removing."""
    try:
        if path.is_symlink() or not (path / SEAL).is_file():
            return None
        used = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    except FileNotFoundError:
        return None
    return CacheEntry(path.parent.name, path.name, _bytes(path), used)


def _bytes(path: Path) -> int:
    """Of a file, or of all files below a folder; nothing of those that another process is removing."""
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
def _locked(digest: str, wait: bool = True) -> Iterator[bool]:
    """Whether the lock was taken, which it always is where one waits."""
    path = folder() / "locks" / f"{digest}.lock"
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise explained(error, folder(), REMEDY) from error
    try:
        yield True
    finally:
        lock.release()


def _remove(entry: CacheEntry, unused_for: timedelta) -> bool:
    """Whether it went. It vanishes at once, by its name: nobody finds half of it."""
    aside = entry.folder.with_name(f".{entry.digest}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    with _locked(entry.digest, wait=False) as taken:
        try:
            if not taken or _age(entry.folder) < unused_for:
                return False
            entry.folder.rename(aside)
        except FileNotFoundError:  # another process was faster
            return False
        except OSError as error:
            raise explained(error, entry.folder, "See whom it belongs to.") from error
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _age(path: Path) -> timedelta:
    return datetime.now(timezone.utc) - datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)


def _tidy() -> None:
    """Partial folders of processes that were killed go after a day: by then nobody writes them, on no other host."""
    for path in folder().glob("*/.*.partial-*"):
        with suppress(FileNotFoundError):
            if PARTIAL.fullmatch(path.name) and path.is_dir() and _age(path) > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


PARTIAL: Final = re.compile(r"\.[0-9a-f]{64}\.partial-.+")

SEAL: Final = "files.json"


def _seal(entry: Path) -> None:
    files = [record(entry, str(path.relative_to(entry))) for path in sorted(entry.rglob("*")) if path.is_file()]
    (entry / SEAL).write_bytes(msgspec.json.encode(files))


def _intact(entry: Path) -> bool:
    try:
        files = msgspec.json.decode((entry / SEAL).read_bytes(), type=list[FileRecord])
    except (OSError, msgspec.MsgspecError):
        return False
    return all(damage(entry, file) is None for file in files)


def _evict(cap_bytes: float) -> None:
    """Remove the entries longest unused until the rest fits the cap, but none that may still be read."""
    total = 0
    for entry in entries():
        total += entry.bytes
        if total > cap_bytes:
            with suppress(InputError):  # it is somebody else's: no reason for our own work to fail
                _remove(entry, IN_USE)
    _tidy()


def _cap_bytes() -> float:
    text = os.environ.get(CAP_VARIABLE) or str(DEFAULT_CAP_GIB)
    try:
        cap = float(text)
    except ValueError:
        cap = math.nan
    if not cap >= 0:  # NaN would keep everything, and a negative cap nothing
        raise UsageError(f"{CAP_VARIABLE}={text!r} is not a number of GiB.", "Set it to a number such as 20.")
    return cap * 2**30
