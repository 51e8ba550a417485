"""WebDataset shards: tar files whose members belong together by name.

`0001.jpg` and `0001.cls` are one sample: the key is the path up to the first dot of its last part. The image is the
member with an image's suffix, the label the integer in `.cls`. Members are found once, by reading the headers, and read
where they lie when a sample is asked for. Nothing is extracted, so that a member's name never becomes a path.

What tar tools leave aside is left aside here: links, folders, and names whose last part begins with a dot.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.calibration.image import SUFFIXES as IMAGES
from deploykit.core.calibration.image import decode_bytes
from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.errors import InputError
from deploykit.core.values import Sample

BLOCK: Final = tarfile.BLOCKSIZE
RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
COMPRESSED: Final = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|Z)|tgz|tbz2?|txz)$", re.IGNORECASE)
LABEL_BYTES: Final = 32
"""No integer that is a class is longer."""


class Member(NamedTuple):
    """Where a sample's image lies, and its label."""

    shard: Path
    name: str
    start: int
    size: int
    label: int | None


class Piece(NamedTuple):
    """One member of a shard."""

    start: int
    size: int


def recognises(name: str) -> bool:
    """Whether this file name, or pattern of file names, is that of shards; the compressed ones are refused later."""
    return name.lower().endswith(".tar") or COMPRESSED.search(name) is not None


def load(name: str, split: str) -> LazySet:
    """The samples of one .tar, of all in a folder, or of a pattern such as `shards-{000..004}.tar`."""
    members = [member for shard in files(name) for member in _members(shard)]
    if not members:
        raise InputError(f"there is no image in the shards {name!r}.", f"Images end in {', '.join(sorted(IMAGES))}.")
    unlabelled = [member for member in members if member.label is None]
    if 0 < len(unlabelled) < len(members):
        raise InputError(
            f"{len(unlabelled)} of {len(members)} images in {name!r} have no .cls beside them, "
            f"first {unlabelled[0].name!r} in {str(unlabelled[0].shard)!r}.",
            "Label all of them or none.",
        )
    path = Path(name)
    title = path.resolve().name if path.is_dir() else path.stem
    return LazySet(name=title, split=split, real=True, classes=(), items=members, make=_sample)


def files(name: str) -> list[Path]:
    """The shards that a name stands for, in order. InputError where one is missing or compressed."""
    path = Path(name)
    if path.is_dir():
        found = sorted(child for child in path.iterdir() if recognises(child.name) and not child.name.startswith("."))
    else:
        found = [path] if path.exists() else [Path(one) for one in _expand(name)]
    for shard in found:
        if COMPRESSED.search(shard.name):
            raise InputError(
                f"{str(shard)!r} is compressed, and no member of it could be read without unpacking all before it.",
                "Unpack it; the images in it are compressed already.",
            )
        if not shard.is_file():
            raise InputError(f"there is no shard {str(shard)!r}.", f"{name!r} asks for it.")
    return found


def _expand(pattern: str) -> Iterator[str]:
    """`{08..10}` -> 08, 09, 10: with as many digits as the first number has. Several ranges vary the last one first."""
    found = RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(last) < int(first):
        raise InputError(f"the range {found.group()} in {pattern!r} is empty.", "Begin with the smaller number.")
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


def _members(shard: Path) -> Iterator[Member]:
    """The shard's samples in the order of their first members."""
    for key, pieces in _samples(shard).items():
        images = [kind for kind in pieces if f".{kind}" in IMAGES]
        if len(images) > 1:
            raise InputError(
                f"the sample {key!r} in {str(shard)!r} has several images: {', '.join(images)}.",
                "Write shards with one image per sample.",
            )
        if images:
            label = _label(shard, key, pieces["cls"]) if "cls" in pieces else None
            yield Member(shard, f"{key}.{images[0]}", *pieces[images[0]], label)


def _samples(shard: Path) -> dict[str, dict[str, Piece]]:
    """Key -> suffix in lower case -> where it lies."""
    samples: dict[str, dict[str, Piece]] = {}
    for name, piece in _pieces(shard):
        folder, _, base = name.rpartition("/")
        stem, dot, kind = base.partition(".")
        if not stem or not dot:
            continue
        pieces = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if kind.lower() in pieces:
            raise InputError(f"{str(shard)!r} has two members {name!r}.", "Give every sample a key of its own.")
        pieces[kind.lower()] = piece
    return samples


def _pieces(shard: Path) -> Iterator[tuple[str, Piece]]:
    """Name and place of every regular file in it."""
    reached = -1
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                # A size below zero, which the format can express, would lead back to members that have been.
                if member.size < 0 or member.offset <= reached:
                    raise tarfile.ReadError(f"the header at byte {member.offset} leads backwards")
                reached = member.offset
                if member.issparse():
                    raise tarfile.ReadError(f"{member.name!r} is stored with holes; write it without --sparse")
                if member.isreg():
                    yield member.name, Piece(member.offset_data, member.size)
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{str(shard)!r} cannot be read as a tar file: {error}.", "Write or copy it anew.") from error


def _check_end(shard: Path, end: int) -> None:
    """Python's tarfile takes a damaged header for the end. The end is a block of zeros, or that of the file."""
    if _content(shard, Piece(end, BLOCK)).strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {end} is damaged")


def _content(shard: Path, piece: Piece) -> bytes:
    try:
        with shard.open("rb") as file:
            file.seek(piece.start)
            return file.read(piece.size)
    except OSError as error:
        raise InputError(f"{str(shard)!r} cannot be read: {error.strerror}.", "Try again, or copy it anew.") from error


def _label(shard: Path, key: str, piece: Piece) -> int:
    content = _content(shard, piece) if piece.size <= LABEL_BYTES else b"a long text"
    if not content.strip().isdigit():
        raise InputError(
            f"{key}.cls in {str(shard)!r} holds {content.decode(errors='replace')!r}, not a class.",
            "Write the class as an integer from 0, in decimal digits.",
        )
    return int(content)


def _sample(member: Member) -> Sample:
    content = _content(member.shard, Piece(member.start, member.size))
    image = decode_bytes(content, f"{member.shard}: {member.name}")
    return Sample(name=f"{member.shard.stem}/{member.name}", image=image, label=member.label)
