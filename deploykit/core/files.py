"""Files and folders: digests, and files and folders that appear whole or not at all."""

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


def plain(name: str) -> str:
    """A tensor's name as a part of a file's name: `gpu_0/data:0` -> `gpu_0%2Fdata%3A0`. No two become one."""
    return quote(name, safe=" ")


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def record(folder: Path, name: str) -> FileRecord:
    """The record of `folder/name`, its path relative to `folder`."""
    path = folder / name
    return FileRecord(name, sha256(path), path.stat().st_size)


def damage(folder: Path, file: FileRecord) -> str | None:
    """What is wrong with a file that a record promises; None: it is as it was."""
    path = folder / file.path
    if not path.is_file():
        return f"{file.path} is missing"
    if (size := path.stat().st_size) != file.bytes:
        return f"{file.path} has {size} bytes instead of {file.bytes}"
    if sha256(path) != file.sha256:
        return f"{file.path} differs from its recorded SHA-256"
    return None


@contextmanager
def staged(destination: Path, remedy: str = "Free some space, or choose another folder with -o.") -> Iterator[Path]:
    """A folder to write into that becomes `destination` when the block ends well, and vanishes when it does not.

    Everything is on disk before the rename, so a crash leaves either the old folder or the new one. What stood at
    `destination` is put aside, and comes back if the last step fails.
    """
    parent = destination.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(destination)
        folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-{os.getpid()}-", dir=parent))
    except OSError as error:
        raise explained(error, destination, remedy) from error
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        _sync(folder)
        _replace(folder, destination)
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        raise explained(error, destination, remedy) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_file(path: Path, content: Buffer, remedy: str) -> None:
    """Write `content` as `path`, whose folder exists. InputError with `remedy` where the disk refuses.

    Readers see what was there before or all of the new, after a crash too.
    """
    partial = None
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.partial-", dir=path.parent, delete=False) as file:
            partial = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise explained(error, path, remedy) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Errors that say something about where we write, not about what we do."""


def explained(error: OSError, where: Path, remedy: str) -> InputError:
    """An operating-system error about `where`, in words."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"The disk that holds {where} is full.", remedy)
    return InputError(f"{where} cannot be written: {reason}.", remedy)


def _replace(folder: Path, destination: Path) -> None:
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


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(destination: Path) -> None:
    """Tidy up after killed processes: their partial folders go, and what one of them had put aside comes back where
    nothing has taken its place.
    """
    prefix = f".{destination.name}.partial-"
    for left in destination.parent.glob(f"{glob.escape(prefix)}*"):
        pid, _, rest = left.name.removeprefix(prefix).partition("-")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if rest == "old" and not destination.exists():
            left.rename(destination)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
