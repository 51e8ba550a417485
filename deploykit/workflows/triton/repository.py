"""The repository: a folder per model, a numbered folder per version. Existing files are never lost.

REPOSITORY/
  resnet50-fp16/
    config.pbtxt           written with the first version, then left to the user
    labels.txt   warmup/   shared by all versions
    1/  2/ …               created atomically, never changed
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.errors import InputError
from deploykit.core.files import explain_os_error, hash_file, replace_file, stage_folder
from deploykit.core.values import Value
from deploykit.workflows.triton.config import CONFIG, format_config, read_interface
from deploykit.workflows.triton.model_config import ModelConfig, format_interface

REMEDY: Final = "Free some space or fix the permissions, or choose another --repository."

MANIFEST_COPY: Final = "deploykit-manifest.json"
"""Copy of the manifest of the bundle that a version was made from, as evidence of its checks."""


class ModelFiles(NamedTuple):
    """Files of a model by path: those `shared` by all versions and those of one `version` (bytes or files to copy)."""

    shared: Mapping[str, bytes]
    version: Mapping[str, bytes | Path]


class PlacedModel(Value, frozen=True):
    """A model in the repository after writing."""

    name: str
    folder: str
    version: int
    interface: str
    """Platform, batches, inputs and outputs."""
    present: bool
    """Whether this version existed already."""
    caveats: tuple[str, ...] = ()
    """What users of the model must know, as clauses."""


def check_model(repository: Path, model: ModelConfig, contents: ModelFiles, version: int | None, force: bool) -> None:
    """Raise InputError for everything that `place_model` would refuse, before anything is written."""
    parent = next(path for path in (repository, *repository.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise InputError(f"{parent} is not a folder.", "Name a new or existing folder with --repository.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{repository} cannot be written: no permission to write to {parent}.", REMEDY)
    if (folder := repository / model.name).exists():
        _check_compatible(folder, model, contents, force)
        _choose_version(folder, contents, version)


def place_model(
    repository: Path,
    model: ModelConfig,
    contents: ModelFiles,
    caveats: tuple[str, ...],
    version: int | None,
    force: bool,
) -> PlacedModel:
    """Write the model as version `version` in `repository`, or as the one after the highest. Nothing is written if the
    highest version already has the same files.

    An existing config.pbtxt with the same interface is kept with the user's changes. With `force`, it and the labels
    are rewritten and backed up. InputError if they do not match and `force` is not set.
    """
    folder = repository / model.name
    if not folder.exists():
        return _place_first_version(folder, model, contents, caveats, version or 1)
    _check_compatible(folder, model, contents, force)
    number, present = _choose_version(folder, contents, version)
    caveats += _write_shared(folder, model, contents, force)
    if not present:
        _publish_folder(folder / str(number), contents.version)
        if number < (highest := max(_list_versions(folder))):
            caveats += (f"Triton serves version {highest}, the highest, unless version_policy says otherwise",)
    return PlacedModel(model.name, str(folder), number, format_interface(model), present, caveats)


def _place_first_version(
    folder: Path, model: ModelConfig, contents: ModelFiles, caveats: tuple[str, ...], version: int
) -> PlacedModel:
    version_files = {f"{version}/{path}": content for path, content in contents.version.items()}
    _publish_folder(folder, {**contents.shared, **version_files, CONFIG: format_config(model).encode("utf-8")})
    return PlacedModel(model.name, str(folder), version, format_interface(model), False, caveats)


def _check_compatible(folder: Path, model: ModelConfig, contents: ModelFiles, force: bool) -> None:
    """Raise InputError if the folder holds a model with another interface or other labels."""
    config = folder / CONFIG
    if not config.is_file():
        raise InputError(
            f"{folder} has no {CONFIG}, so it is not a model of deploykit.", "Give the new model another --name."
        )
    if force:
        return
    stated = read_interface(config.read_text(encoding="utf-8", errors="replace"))
    if stated is None:
        raise InputError(
            f"{config} was not written by deploykit, so its interface is unknown.",
            f"Give the new model another --name, or replace the file with --force: {BACKUP_NOTE}",
        )
    if stated != (ours := format_interface(model)):
        raise InputError(
            f"{folder} holds a model with another interface: {stated}; the bundle's is {ours}.",
            f"Give the new model another --name, or replace {CONFIG} with --force: {BACKUP_NOTE}",
        )
    for path in _list_differing_files(folder, contents):
        raise InputError(
            f"{folder / path} has other classes than the bundle, and all versions share this file.",
            f"Give the new model another --name, or replace the file with --force: {BACKUP_NOTE}",
        )


BACKUP_NOTE: Final = "the old file is kept as a backup."


def _list_differing_files(folder: Path, contents: ModelFiles) -> list[str]:
    """List the top-level files of the model that exist with other content. Files in folders are warm-up data, of which
    any that fits the interface will do.
    """
    top = {path: content for path, content in contents.shared.items() if "/" not in path}
    return [
        path for path, content in top.items() if (folder / path).exists() and (folder / path).read_bytes() != content
    ]


def _choose_version(folder: Path, contents: ModelFiles, requested: int | None) -> tuple[int, bool]:
    """Choose the version number for these files, and tell whether that version already exists with them."""
    versions = _list_versions(folder)
    highest = max(versions, default=0)
    number = highest if requested is None else requested
    if number in versions and _holds_same_files(folder / str(number), contents):
        return number, True
    if requested in versions:
        raise InputError(
            f"{folder / str(requested)} exists with other files.", "Omit --version to use the next number."
        )
    return requested or highest + 1, False


def _list_versions(folder: Path) -> set[int]:
    """List the folders that Triton reads as versions: integers ≥ 1."""
    return {int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.name.isascii()} - {0}


def _holds_same_files(version: Path, contents: ModelFiles) -> bool:
    """Whether a version has these files. The manifest may differ: the same graph can be measured twice."""
    expected = {path: content for path, content in contents.version.items() if path != MANIFEST_COPY}
    existing = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    return existing - {MANIFEST_COPY} == set(expected) and all(
        _has_content(version / path, content) for path, content in expected.items()
    )


def _has_content(path: Path, content: bytes | Path) -> bool:
    if isinstance(content, bytes):
        return path.read_bytes() == content
    return path.stat().st_size == content.stat().st_size and hash_file(path) == hash_file(content)


def _write_shared(folder: Path, model: ModelConfig, contents: ModelFiles, force: bool) -> tuple[str, ...]:
    """Write the missing shared files, and with `force` also those that differ. Returns caveats about the changes."""
    config, ours = folder / CONFIG, format_config(model)
    missing = {
        path: content for path, content in contents.shared.items() if "/" not in path or not (folder / path).exists()
    }
    if force:
        rewritten = {**missing, CONFIG: ours.encode("utf-8")}
        backups = [write_file(folder / path, content, force) for path, content in rewritten.items()]
        return tuple(f"the old {path.stem} is kept as {path.name}" for path in backups if path is not None)
    for path, content in missing.items():
        write_file(folder / path, content, force)
    before = config.read_text(encoding="utf-8", errors="replace")
    if before != ours:
        return (f"{CONFIG} was not changed; --force would rewrite it: {_format_changes(before, ours)}",)
    return ()


def _format_changes(config: str, ours: str) -> str:
    """Format the lines that would change, `− count: 4, + count: 1`, or their number if there are more than six."""
    compared = difflib.ndiff(config.splitlines(), ours.splitlines())
    lines = [f"{'−' if line[0] == '-' else '+'} {line[2:].strip()}" for line in compared if line[0] in "-+"]
    return ", ".join(lines) if len(lines) <= 6 else f"{len(lines)} lines differ"


def check_file(path: Path, content: bytes, force: bool) -> None:
    """Raise InputError for a file that `write_file` would refuse to replace."""
    if path.exists() and not force and path.read_bytes() != content:
        raise InputError(f"{path} exists with other content.", f"Replace it with --force: {BACKUP_NOTE}")


def write_file(path: Path, content: bytes, force: bool) -> Path | None:
    """Write a file, and return the backup of a replaced one: `path.1`, or the first free number. InputError without
    `force` if a file with other content exists.
    """
    check_file(path, content, force)
    backup = None
    if path.exists():
        if path.read_bytes() == content:
            return None
        backup = _back_up_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, path, REMEDY) from error
    replace_file(path, content, REMEDY)
    return backup


def _back_up_file(path: Path) -> Path:
    number = 1
    while (backup := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return Path(shutil.copy2(path, backup))


def _publish_folder(destination: Path, files: Mapping[str, bytes | Path]) -> None:
    """Create a folder atomically. InputError if it exists by then: two concurrent calls may choose the same number."""
    staged = destination.with_name(f".{destination.name}.new-{os.getpid()}")
    with stage_folder(staged, REMEDY) as folder:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / path).write_bytes(content)
            else:
                shutil.copyfile(content, folder / path)
    try:
        staged.rename(destination)
    except OSError:
        shutil.rmtree(staged, ignore_errors=True)
        raise InputError(
            f"{destination} was created by another process in the meantime.", "Run the command again."
        ) from None
