"""Files as one stream: a tar archive identified by its SHA-256, transferred in pieces of limited size.

A received archive is unpacked only if its digest matches and it contains nothing but plain files within the folder.
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
"""Bytes per piece."""


class ArchiveLabel(Value, frozen=True):
    """Digest and size of an archive."""

    sha256: str
    bytes: int


class PackedArchive:
    """Archive on disk, ready to be sent."""

    def __init__(self, label: ArchiveLabel, file: IO[bytes]) -> None:
        self.label = label
        self._file = file

    def pieces(self) -> Iterator[bytes]:
        """The archive's bytes in pieces, in order."""
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            yield piece


@contextmanager
def pack_files(files: Mapping[str, Path], near: Path) -> Iterator[PackedArchive]:
    """Pack `files`, given by their path in the archive. The archive is a temporary file in `near`, deleted on exit.

    Equal files with equal modification times give an equal archive: owners and modes are not stored.
    """
    with tempfile.TemporaryFile(dir=near) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(files):
                with files[name].open("rb") as content:
                    archive.addfile(_create_tar_header(name, files[name]), content)
        file.seek(0)
        digest = hashlib.sha256()
        while piece := file.read(PIECE):
            digest.update(piece)
        yield PackedArchive(ArchiveLabel(digest.hexdigest(), file.tell()), file)


def unpack_archive(pieces: Iterable[bytes], label: ArchiveLabel, folder: Path) -> None:
    """Unpack an archive into the existing folder `folder`. CheckFailed if its bytes do not match the label."""
    digest, size = hashlib.sha256(), 0
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
        if (received := ArchiveLabel(digest.hexdigest(), size)) != label:
            raise CheckFailed(
                f"The received archive is damaged: {received.bytes} bytes with SHA-256 {received.sha256[:12]}… instead "
                f"of {label.bytes} with {label.sha256[:12]}….",
                "It will be requested again.",
            )
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r") as archive:
            for member in archive:
                _extract_member(archive, member, folder)


def _create_tar_header(name: str, path: Path) -> tarfile.TarInfo:
    status = path.stat()
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = status.st_size, int(status.st_mtime), 0o644
    return header


def _extract_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    content = archive.extractfile(member) if member.isreg() else None
    if content is None or not stays_inside(member.name):
        raise CheckFailed(
            f"The received archive holds {member.name!r}, which is not a plain file within the folder.",
            "Check the node that sent it.",
        )
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, PIECE)
    os.utime(path, (member.mtime, member.mtime))  # image sets are identified by the times of their files
