"""The cache: what a stage made, found again by everything that determined it.

An entry is a folder named after the SHA-256 of its key. It appears whole or not at all, one process builds it while
others wait, and when the cache outgrows its cap the entries longest unused go first.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock
import msgspec
import platformdirs

from deploykit.errors import UsageError
from deploykit.files import damage, explained, record, staged
from deploykit.values import FileRecord

FOLDER_VARIABLE: Final = "DEPLOYKIT_CACHE_DIR"
CAP_VARIABLE: Final = "DEPLOYKIT_CACHE_GIB"
DEFAULT_CAP_GIB: Final = 20.0
REMEDY: Final = f"Free some space, or point {FOLDER_VARIABLE} at another folder."


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
            _evict(cap_bytes, keep=entry)
        os.utime(entry)
    return entry


@contextmanager
def _locked(digest: str) -> Iterator[None]:
    path = folder() / "locks" / f"{digest}.lock"
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise explained(error, folder(), REMEDY) from error
    try:
        yield
    finally:
        lock.release()


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


def _evict(cap_bytes: float, keep: Path) -> None:
    """Remove the entries longest unused until the rest fits the cap; never the one just made."""
    entries = folder().glob("*/" + "[0-9a-f]" * 64)
    total = 0
    for _, size, entry in sorted(((*_use(entry), entry) for entry in entries), reverse=True):
        total += size
        if total > cap_bytes and entry != keep:
            shutil.rmtree(entry, ignore_errors=True)


def _use(entry: Path) -> tuple[float, int]:
    """When an entry was last used, and its bytes; nothing of one that another process is removing."""
    try:
        return entry.stat().st_mtime, sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    except FileNotFoundError:
        return 0.0, 0


def _cap_bytes() -> float:
    text = os.environ.get(CAP_VARIABLE) or str(DEFAULT_CAP_GIB)
    try:
        cap = float(text)
    except ValueError:
        cap = math.nan
    if not cap >= 0:  # NaN would keep everything, and a negative cap nothing
        raise UsageError(f"{CAP_VARIABLE}={text!r} is not a number of GiB.", "Set it to a number such as 20.")
    return cap * 2**30
