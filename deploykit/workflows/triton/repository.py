"""The repository: a folder per model, a numbered folder per version. What lies there already is never lost.

REPOSITORY/
  resnet50-fp16/
    config.pbtxt           written with the first version; from then on it is the user's
    labels.txt   warmup/   shared by all versions
    1/  2/ …               each appears whole, and none is ever written again
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.errors import InputError
from deploykit.core.files import explained, replace_file, sha256, staged
from deploykit.core.values import Value
from deploykit.workflows.triton.config import CONFIG, stated_interface, text
from deploykit.workflows.triton.served import Model, interface

REMEDY: Final = "Make room, or name another --repository."

EVIDENCE: Final = "deploykit-manifest.json"
"""The manifest of the bundle that a version came from, for whoever asks later what it was checked by."""


class Contents(NamedTuple):
    """The files of a model: `shared` by all versions, and those of the `version`, bytes or files to copy, by path."""

    shared: Mapping[str, bytes]
    version: Mapping[str, bytes | Path]


class Placed(Value, frozen=True):
    """A model in the repository, and what was done for it."""

    name: str
    folder: str
    version: int
    interface: str
    """Platform, batches, inputs and outputs."""
    present: bool
    """Whether this version lay there already."""
    statements: tuple[str, ...] = ()
    """What its user must know, as sentences."""


def check(repository: Path, model: Model, contents: Contents, version: int | None, force: bool) -> None:
    """InputError for all that `place` would refuse, before anything is written."""
    ground = next(path for path in (repository, *repository.absolute().parents) if path.exists())
    if not ground.is_dir():
        raise InputError(f"{ground} is no folder.", "Name a folder for --repository, new or not.")
    if not os.access(ground, os.W_OK | os.X_OK):
        raise InputError(f"{repository} cannot be written: you may not write to {ground}.", REMEDY)
    if (folder := repository / model.name).exists():
        _fits(folder, model, contents, force)
        _numbered(folder, contents, version)


def place(
    repository: Path,
    model: Model,
    contents: Contents,
    statements: tuple[str, ...],
    version: int | None,
    force: bool,
) -> Placed:
    """The model as a new version in `repository`: `version`, or the one after the highest. Where the highest has the
    same files already, nothing is written.

    The model's config.pbtxt is kept where it states the same interface, whatever else was tuned in it. With `force`, it
    and the labels are written anew, and what they were stays beside them. InputError where without it they do not fit.
    """
    folder = repository / model.name
    if not folder.exists():
        return _first(folder, model, contents, statements, version or 1)
    _fits(folder, model, contents, force)
    number, present = _numbered(folder, contents, version)
    statements += _shared(folder, model, contents, force)
    if not present:
        _appear(folder / str(number), contents.version)
        if number < (highest := max(_versions(folder))):
            statements += (f"version {highest} is the one that Triton serves: it takes the highest unless told others",)
    return Placed(model.name, str(folder), number, interface(model), present, statements)


def _first(folder: Path, model: Model, contents: Contents, statements: tuple[str, ...], version: int) -> Placed:
    of_version = {f"{version}/{path}": content for path, content in contents.version.items()}
    _appear(folder, {**contents.shared, **of_version, CONFIG: text(model).encode("utf-8")})
    return Placed(model.name, str(folder), version, interface(model), False, statements)


def _fits(folder: Path, model: Model, contents: Contents, force: bool) -> None:
    """A folder that holds another kind of model, or labels of other classes, is not a place for a further version."""
    config = folder / CONFIG
    if not config.is_file():
        raise InputError(f"{folder} has no {CONFIG}: it is not one of our models.", "Call the new one by --name.")
    if force:
        return
    stated = stated_interface(config.read_text(encoding="utf-8", errors="replace"))
    if stated is None:
        raise InputError(
            f"{config} was not written by deploykit, and says by itself what every version must be.",
            f"Call the new model by --name, or replace it with --force: {KEPT_BESIDE}",
        )
    if stated != (ours := interface(model)):
        raise InputError(
            f"{folder} holds another kind of model: it is {stated}, and the bundle's is {ours}.",
            f"Call the new one by --name, or replace {CONFIG} with --force: {KEPT_BESIDE}",
        )
    for path in _differing(folder, contents):
        raise InputError(
            f"{folder / path} names other classes than the bundle, and all versions share it.",
            f"Call the new model by --name, or replace it with --force: {KEPT_BESIDE}",
        )


KEPT_BESIDE: Final = "what it was stays beside it."


def _differing(folder: Path, contents: Contents) -> list[str]:
    """Files at the model's top that are there with another content. Those in folders are requests to warm up with: of
    two that fit the interface, one serves as well as the other.
    """
    top = {path: content for path, content in contents.shared.items() if "/" not in path}
    return [
        path for path, content in top.items() if (folder / path).exists() and (folder / path).read_bytes() != content
    ]


def _numbered(folder: Path, contents: Contents, asked: int | None) -> tuple[int, bool]:
    """The number that these files are to have, and whether they have it already."""
    there = _versions(folder)
    highest = max(there, default=0)
    number = highest if asked is None else asked
    if number in there and _same(folder / str(number), contents):
        return number, True
    if asked in there:
        raise InputError(
            f"{folder / str(asked)} is there already, with other files.", "Leave out --version for the next number."
        )
    return asked or highest + 1, False


def _versions(folder: Path) -> set[int]:
    """Names that Triton takes for versions: whole numbers from 1."""
    return {int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.name.isascii()} - {0}


def _same(version: Path, contents: Contents) -> bool:
    """Whether a version holds these files. Its evidence may differ: the same graph can be measured twice."""
    wanted = {path: content for path, content in contents.version.items() if path != EVIDENCE}
    there = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    return there - {EVIDENCE} == set(wanted) and all(
        _equal(version / path, content) for path, content in wanted.items()
    )


def _equal(path: Path, content: bytes | Path) -> bool:
    if isinstance(content, bytes):
        return path.read_bytes() == content
    return path.stat().st_size == content.stat().st_size and sha256(path) == sha256(content)


def _shared(folder: Path, model: Model, contents: Contents, force: bool) -> tuple[str, ...]:
    """Write what versions share and is not there; with `force` also what differs. What a reader should know of it."""
    config, ours = folder / CONFIG, text(model)
    wanted = {path: it for path, it in contents.shared.items() if not (folder / path).exists() or "/" not in path}
    if force:
        former = [put(folder / path, it, force) for path, it in {**wanted, CONFIG: ours.encode("utf-8")}.items()]
        return tuple(f"what {path.stem} was is kept as {path.name}" for path in former if path is not None)
    for path, content in wanted.items():
        put(folder / path, content, force)
    before = config.read_text(encoding="utf-8", errors="replace")
    if before != ours:
        return (f"{CONFIG} was kept as it is; --force would write it anew: {_changes(before, ours)}",)
    return ()


def _changes(config: str, ours: str) -> str:
    """`− count: 4, + count: 1`: the lines that would go and come, or how many where they are many."""
    compared = difflib.ndiff(config.splitlines(), ours.splitlines())
    lines = [f"{'−' if line[0] == '-' else '+'} {line[2:].strip()}" for line in compared if line[0] in "-+"]
    return ", ".join(lines) if len(lines) <= 6 else f"{len(lines)} lines differ"


def check_file(path: Path, content: bytes, force: bool) -> None:
    """InputError for a file that `put` would refuse to replace."""
    if path.exists() and not force and path.read_bytes() != content:
        raise InputError(f"{path} is there already, with other content.", f"Replace it with --force: {KEPT_BESIDE}")


def put(path: Path, content: bytes, force: bool) -> Path | None:
    """Write a file. Another that has its name stays beside it as `path.1`, or the first number that is free, which is
    handed back; without `force`, it stays where it is and InputError says so.
    """
    check_file(path, content, force)
    former = None
    if path.exists():
        if path.read_bytes() == content:
            return None
        former = _set_aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, path, REMEDY) from error
    replace_file(path, content, REMEDY)
    return former


def _set_aside(path: Path) -> Path:
    number = 1
    while (former := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return Path(shutil.copy2(path, former))


def _appear(destination: Path, files: Mapping[str, bytes | Path]) -> None:
    """A folder that appears whole or not at all, and never in the place of another: two calls at once may both have
    found the number free.
    """
    fresh = destination.with_name(f".{destination.name}.new-{os.getpid()}")
    with staged(fresh, REMEDY) as folder:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / path).write_bytes(content)
            else:
                shutil.copyfile(content, folder / path)
    try:
        fresh.rename(destination)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise InputError(f"{destination} appeared while it was being written.", "Call it again.") from None
