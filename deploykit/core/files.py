"""Files and folders: digests and atomic writes."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from deploykit.core.errors import InputError
from deploykit.core.values import FileRecord

if TYPE_CHECKING:
    from typing_extensions import Buffer


def escape_name(name: str) -> str:
    """Escape a tensor's name for use in a file name: `gpu_0/data:0` -> `gpu_0%2Fdata%3A0`. The mapping is injective."""
    return quote(name, safe=" ")


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
        folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-{os.getpid()}-", dir=parent))
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
    if not destination.exists():
        folder.rename(destination)
        return
    aside = destination.with_name(f".{destination.name}.partial-{os.getpid()}-old")
    destination.rename(aside)
    try:
        folder.rename(destination)
    except OSError:
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
        pid, _, suffix = leftover.name.removeprefix(prefix).partition("-")
        if not pid.isdigit() or _is_running(int(pid)):
            continue
        if suffix == "old" and not destination.exists():
            leftover.rename(destination)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


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
