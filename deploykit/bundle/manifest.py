"""The manifest as a file: read, refused, written.

Its JSON Schema (`schema.json`, beside this file) is generated from the types in `deploykit/values/manifests.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from deploykit.core.errors import InputError
from deploykit.core.values.manifests import GraphRecord, Manifest, stays_inside

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "GraphRecord",
    "Manifest",
    "decode",
    "encode",
    "is_ours",
    "read",
    "schema",
    "stays_inside",
]

MANIFEST: Final = "manifest.json"
SCHEMA_VERSION: Final = 4


def read(folder: Path) -> Manifest:
    """The manifest of a bundle. InputError for a folder that is none, and for a manifest of another version."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a bundle: it has no {MANIFEST}.", "Make one with deploykit export."
        ) from None
    except OSError as error:
        raise InputError(f"{folder / MANIFEST} cannot be read: {error.strerror}.", "Check its permissions.") from error
    return decode(content, folder)


class _Version(msgspec.Struct):
    schema_version: int


def decode(content: bytes, folder: Path) -> Manifest:
    """The manifest in `content`; its version is looked at before anything else."""
    where = folder / MANIFEST
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version == SCHEMA_VERSION:
            manifest = msgspec.json.decode(content, type=Manifest)
            if unlisted := set(manifest.named) - set(manifest.files):
                raise msgspec.ValidationError(f"it names {min(unlisted)!r}, which is not among its files")
            return manifest
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where} is damaged: {error}.", "Export the bundle again.") from error
    raise InputError(
        f"{where} has schema version {version}, and this deploykit reads version {SCHEMA_VERSION}.",
        "Use the deploykit that wrote it, or export the bundle again.",
    )


class _Mark(msgspec.Struct):
    """What every manifest of ours has had, and will have, whatever its version."""

    schema_version: int
    key: str
    provenance: dict[str, Any]


def is_ours(folder: Path) -> bool:
    """Whether the folder holds a manifest that some deploykit wrote: other tools call their files manifest.json too."""
    try:
        msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Mark)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def encode(manifest: Manifest) -> bytes:
    """Pretty-printed JSON with a final newline; equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def schema() -> str:
    """The JSON Schema of the manifest, as `schema.json` holds it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest)), indent=2).decode() + "\n"
