"""Files as one stream: an archive, named by the SHA-256 of its bytes, cut into pieces that any memory holds.

What arrives is unpacked only where every byte is what was sent, and holds plain files inside the folder only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from deploykit.core.errors import CheckFailed
from deploykit.core.values import Value
from deploykit.core.values.manifests import stays_inside

PIECE: Final = 32 * 2**20
"""Bytes sent at once."""


class Label(Value, frozen=True):
    """What a stream must be."""

    sha256: str
    bytes: int


class Packed:
    """An archive on disk that is ready to be sent."""

    def __init__(self, label: Label, file: IO[bytes]) -> None:
        self.label = label
        self._file = file

    def pieces(self) -> Iterator[bytes]:
        """All of it, in order."""
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            yield piece


@contextmanager
def packed(files: Mapping[str, Path], near: Path) -> Iterator[Packed]:
    """Files by the path that each will have. The archive lies in the folder `near` as long as the block lasts.

    Equal files with equal times give an equal archive: nobody's name and no mode is in it.
    """
    with tempfile.TemporaryFile(dir=near) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(files):
                with files[name].open("rb") as content:
                    archive.addfile(_header(name, files[name]), content)
        file.seek(0)
        digest = hashlib.sha256()
        while piece := file.read(PIECE):
            digest.update(piece)
        yield Packed(Label(digest.hexdigest(), file.tell()), file)


def unpack(pieces: Iterable[bytes], label: Label, folder: Path) -> None:
    """Put what was packed into `folder`, which exists. CheckFailed where the bytes are not those of the label."""
    digest, size = hashlib.sha256(), 0
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
        if (found := Label(digest.hexdigest(), size)) != label:
            raise CheckFailed(
                f"What arrived is not what was sent: {found.bytes} bytes of SHA-256 {found.sha256[:12]}… instead of "
                f"{label.bytes} of {label.sha256[:12]}….",
                "It is asked for again.",
            )
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r") as archive:
            for member in archive:
                _place(archive, member, folder)


def _header(name: str, path: Path) -> tarfile.TarInfo:
    status = path.stat()
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = status.st_size, int(status.st_mtime), 0o644
    return header


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    content = archive.extractfile(member) if member.isreg() else None
    if content is None or not stays_inside(member.name):
        raise CheckFailed(f"What arrived holds {member.name!r}, which is no file of its own.", "Ask who sent it.")
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, PIECE)
    os.utime(path, (member.mtime, member.mtime))  # sets of images are known by the times of their files
