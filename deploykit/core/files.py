"""Files and folders: digests and atomic writes."""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from deploykit.core.errors import InputError
from deploykit.core.values import FileRecord

if TYPE_CHECKING:
    from typing_extensions import Buffer


def escape_name(name: str) -> str:
    """Escape a tensor's name for use in a file name: `gpu_0/data:0` -> `gpu_0%2Fdata%3A0`. The mapping is injective."""
    return quote(name, safe=" ")


def escape_undecodable(name: str) -> str:
    r"""Write the bytes of a file's name that are not UTF-8 as `\xe9`, so that it can be printed and recorded."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def hash_file(path: Path) -> str:
    """Compute a file's SHA-256 as hex digits, reading in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def record_file(folder: Path, name: str) -> FileRecord:
    """Record size and digest of `folder/name`; the record's path is relative to `folder`."""
    path = folder / name
    return FileRecord(name, hash_file(path), path.stat().st_size)


def find_damage(folder: Path, file: FileRecord) -> str | None:
    """Compare a file with its record. Returns the difference as a clause; None: they match."""
    path = folder / file.path
    if not path.is_file():
        return f"{file.path} is missing"
    if (size := path.stat().st_size) != file.bytes:
        return f"{file.path} has {size} bytes instead of {file.bytes}"
    if hash_file(path) != file.sha256:
        return f"{file.path} differs from its recorded SHA-256"
    return None


def link_or_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Make a file available under a second path: a hard link, or a copy where the file system allows no link. A file
    at `target` is replaced; a symbolic link at `source` is copied as one.
    """
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def stage_folder(
    destination: Path, remedy: str = "Free some space, or choose another folder with -o."
) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `destination` if the block succeeds, and removed if it fails.

    All files are flushed to disk before the rename, so that a crash leaves either the old folder or the new one. An
    existing `destination` is moved aside, and restored if the rename fails.
    """
    parent = destination.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _recover_leftovers(destination)
        folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-{owner_tag()}-", dir=parent))
    except OSError as error:
        raise explain_os_error(error, destination, remedy) from error
    try:
        yield folder
        folder.chmod(0o777 & ~_current_umask())
        _sync_folder(folder)
        _swap_folders(folder, destination)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise explain_os_error(error, destination, remedy) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_file(path: Path, content: Buffer, remedy: str) -> None:
    """Write `content` to `path` atomically; its folder must exist. InputError with `remedy` if the disk refuses.

    Readers see either the old or the new content, also after a crash.
    """
    partial = None
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.partial-", dir=path.parent, delete=False) as file:
            partial = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_current_umask())
        partial.replace(path)
    except OSError as error:
        raise explain_os_error(error, path, remedy) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Errors caused by the disk or its permissions rather than by the caller's work."""


def explain_os_error(error: OSError, where: Path, remedy: str) -> InputError:
    """Turn an operating-system error about `where` into an InputError."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"The disk that holds {where} is full.", remedy)
    return InputError(f"{where} cannot be written: {reason}.", remedy)


def _swap_folders(folder: Path, destination: Path) -> None:
    """Put `folder` in the place of `destination`. InputError where another process has just done the same."""
    aside = destination.with_name(f".{destination.name}.partial-{owner_tag()}-old")
    if destination.exists():
        destination.rename(aside)
    try:
        folder.rename(destination)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            shutil.rmtree(aside, ignore_errors=True)
            what = f"{destination} was written by another process in the meantime."
            raise InputError(what, "Run the command again.") from error
        if aside.exists():
            aside.rename(destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _recover_leftovers(destination: Path) -> None:
    """Clean up after killed processes: remove their partial folders, and restore a folder that one had moved aside if
    nothing has replaced it.
    """
    prefix = f".{destination.name}.partial-"
    for leftover in destination.parent.glob(f"{glob.escape(prefix)}*"):
        name = leftover.name.removeprefix(prefix)
        if not is_abandoned(leftover, name):
            continue
        if name.endswith("-old") and not destination.exists():
            leftover.rename(destination)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


ABANDONED: Final = timedelta(days=1)
"""Age above which a partial folder is taken for the leftover of a killed process, whatever its host: no work takes
that long."""

_OWNER: Final = re.compile(r"(?:(?P<machine>[0-9a-f]{8})-)?(?P<pid>\d+)-.+")


def owner_tag() -> str:
    """The beginning of a temporary folder's name by which `is_abandoned` recognizes the process that made it."""
    return f"{_machine_tag()}-{os.getpid()}"


def is_abandoned(path: Path, name: str) -> bool:
    """Whether the process that made `path` has ended; `name` begins with the `owner_tag` of that process.

    Whether a process of another host runs cannot be known, so what it made is abandoned after `ABANDONED`. False where
    `name` has another form.
    """
    if (owner := _OWNER.fullmatch(name)) is None:
        return False
    if owner["machine"] == _machine_tag():
        return not _is_running(int(owner["pid"]))
    try:
        return time.time() - path.stat().st_ctime > ABANDONED.total_seconds()  # a rename changes ctime, not mtime
    except FileNotFoundError:  # its own process has just removed it
        return False


@functools.cache
def _machine_tag() -> str:
    """Eight hex digits of the host and, within it, of the container: process ids are unique only there."""
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _current_umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
