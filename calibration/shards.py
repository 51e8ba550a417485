"""WebDataset shards: tar files whose members form samples by name.

`0001.jpg` and `0001.cls` are one sample: the key is the path up to the first dot of its last part. The image is the
member with an image suffix, the label the integer in `.cls`. The headers are read once, and a sample's bytes are read
from the tar file on access. Nothing is extracted, so that a member's name never becomes a path.

Links, folders and names whose last part begins with a dot are ignored.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.calibration.image import SUFFIXES as IMAGES
from deploykit.core.calibration.image import decode_image_bytes
from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError
from deploykit.core.files import escape_undecodable
from deploykit.core.values import Sample

BLOCK: Final = tarfile.BLOCKSIZE
RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
COMPRESSED: Final = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|Z)|tgz|tbz2?|txz)$", re.IGNORECASE)
LABEL_BYTES: Final = 32
"""Largest accepted size of a `.cls` member."""


class Member(NamedTuple):
    """Position of a sample's image in its shard, and its label."""

    shard: Path
    name: str
    start: int
    size: int
    label: int | None


class Piece(NamedTuple):
    """Position of one member in its shard."""

    start: int
    size: int


def is_shard_name(name: str) -> bool:
    """Whether a file name or pattern is that of shards. Compressed shards are included here and refused later."""
    return name.lower().endswith(".tar") or COMPRESSED.search(name) is not None


def load_shards(name: str, split: str) -> LazyDataset:
    """Load the samples of one .tar, of all in a folder, or of a pattern such as `shards-{000..004}.tar`."""
    members = [member for shard in list_shards(name) for member in _list_members(shard)]
    if not members:
        raise InputError(f"there is no image in the shards {name!r}.", f"Images end in {', '.join(sorted(IMAGES))}.")
    unlabelled = [member for member in members if member.label is None]
    if 0 < len(unlabelled) < len(members):
        raise InputError(
            f"{len(unlabelled)} of {len(members)} images in {name!r} have no .cls member, "
            f"first {unlabelled[0].name!r} in {str(unlabelled[0].shard)!r}.",
            "Label all of them or none.",
        )
    path = Path(name)
    title = escape_undecodable(path.resolve().name if path.is_dir() else path.stem)
    return LazyDataset(name=title, split=split, real=True, classes=(), items=members, load_sample=_decode_sample)


def list_shards(name: str) -> list[Path]:
    """List the shards of a file, folder or pattern, in order. InputError if one is missing or compressed."""
    path = Path(name)
    if path.is_dir():
        paths = sorted(
            child for child in path.iterdir() if is_shard_name(child.name) and not child.name.startswith(".")
        )
    else:
        paths = [path] if path.exists() else [Path(file_name) for file_name in _expand_ranges(name)]
    for shard in paths:
        if COMPRESSED.search(shard.name):
            raise InputError(
                f"{str(shard)!r} is compressed, so its members cannot be read individually.",
                "Decompress it; the images in it are already compressed.",
            )
        if not shard.is_file():
            raise InputError(f"there is no shard {str(shard)!r}.", f"Add it, or correct {name!r}.")
    return paths


def _expand_ranges(pattern: str) -> Iterator[str]:
    """Expand `{08..10}` to 08, 09, 10, with as many digits as the first number. The last of several ranges varies
    fastest.
    """
    match = RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    if int(last) < int(first):
        raise InputError(f"the range {match.group()} in {pattern!r} is empty.", "Begin with the smaller number.")
    for number in range(int(first), int(last) + 1):
        yield from _expand_ranges(f"{pattern[: match.start()]}{number:0{len(first)}}{pattern[match.end() :]}")


def _list_members(shard: Path) -> Iterator[Member]:
    """List the shard's samples in the order of their first members."""
    for key, pieces in _group_pieces(shard).items():
        images = [kind for kind in pieces if f".{kind}" in IMAGES]
        if len(images) > 1:
            raise InputError(
                f"the sample {key!r} in {str(shard)!r} has several images: {', '.join(images)}.",
                "Write shards with one image per sample.",
            )
        if images:
            label = _read_label(shard, key, pieces["cls"]) if "cls" in pieces else None
            yield Member(shard, f"{key}.{images[0]}", *pieces[images[0]], label)


def _group_pieces(shard: Path) -> dict[str, dict[str, Piece]]:
    """Group the members: key -> suffix in lower case -> position."""
    samples: dict[str, dict[str, Piece]] = {}
    for name, piece in _list_pieces(shard):
        folder, _, base = name.rpartition("/")
        stem, dot, kind = base.partition(".")
        if not stem or not dot:
            continue
        pieces = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if kind.lower() in pieces:
            raise InputError(f"{str(shard)!r} has two members {name!r}.", "Give every sample a unique key.")
        pieces[kind.lower()] = piece
    return samples


def _list_pieces(shard: Path) -> Iterator[tuple[str, Piece]]:
    """List name and position of every regular file in the shard."""
    last_offset = -1
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                # A negative size, which the format can express, would lead back to earlier members.
                if member.size < 0 or member.offset <= last_offset:
                    raise tarfile.ReadError(f"the header at byte {member.offset} points backwards")
                last_offset = member.offset
                if member.issparse():
                    raise tarfile.ReadError(f"{member.name!r} is a sparse member; write it without --sparse")
                if member.isreg():
                    yield member.name, Piece(member.offset_data, member.size)
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{str(shard)!r} cannot be read as a tar file: {error}.", "Write or copy it again.") from error


def _check_end(shard: Path, end: int) -> None:
    """Raise ReadError unless the archive ends with a block of zeros or the file: tarfile stops at a damaged header."""
    if _read_content(shard, Piece(end, BLOCK)).strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {end} is damaged")


def _read_content(shard: Path, piece: Piece) -> bytes:
    try:
        with shard.open("rb") as file:
            file.seek(piece.start)
            return file.read(piece.size)
    except OSError as error:
        raise InputError(f"{str(shard)!r} cannot be read: {error.strerror}.", "Try again, or copy it again.") from error


def _read_label(shard: Path, key: str, piece: Piece) -> int:
    content = _read_content(shard, piece) if piece.size <= LABEL_BYTES else b"a long text"
    if not content.strip().isdigit():
        raise InputError(
            f"{key}.cls in {str(shard)!r} holds {content.decode(errors='replace')!r}, not a class.",
            "Write the class as an integer from 0, in decimal digits.",
        )
    return int(content)


def _decode_sample(member: Member) -> Sample:
    content = _read_content(member.shard, Piece(member.start, member.size))
    image = decode_image_bytes(content, f"{member.shard}: {member.name}")
    return Sample(name=escape_undecodable(f"{member.shard.stem}/{member.name}"), image=image, label=member.label)
