"""Read and write the manifest, and generate its JSON Schema.

Its JSON Schema (`schema.json` in this folder) is generated from the types in `deploykit/core/values/manifests.py`.
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
    "decode_manifest",
    "encode_manifest",
    "generate_schema",
    "is_ours",
    "read_manifest",
    "stays_inside",
]

MANIFEST: Final = "manifest.json"
SCHEMA_VERSION: Final = 6


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle. InputError for a folder that is not a bundle, or another schema version."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a bundle: it has no {MANIFEST}.", "Create one with deploykit export."
        ) from None
    except OSError as error:
        raise InputError(f"{folder / MANIFEST} cannot be read: {error.strerror}.", "Check its permissions.") from error
    return decode_manifest(content, folder)


class _Version(msgspec.Struct):
    schema_version: int


def decode_manifest(content: bytes, folder: Path) -> Manifest:
    """Decode the manifest in `content`; its schema version is checked before anything else."""
    where = folder / MANIFEST
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version == SCHEMA_VERSION:
            manifest = msgspec.json.decode(content, type=Manifest)
            if unlisted := set(manifest.referenced_paths) - set(manifest.files):
                raise msgspec.ValidationError(f"it names {min(unlisted)!r}, which is not among its files")
            return manifest
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where} is damaged: {error}.", "Export the bundle again.") from error
    raise InputError(
        f"{where} has schema version {version}, and this deploykit reads version {SCHEMA_VERSION}.",
        "Use the deploykit that wrote it, or export the bundle again.",
    )


class _ManifestMark(msgspec.Struct):
    """Fields that every manifest has, whatever its schema version."""

    schema_version: int
    key: str
    provenance: dict[str, Any]


def is_ours(folder: Path) -> bool:
    """Whether the folder's manifest.json was written by deploykit: other tools use that file name too."""
    try:
        msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_ManifestMark)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode as indented JSON with a final newline; equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def generate_schema() -> str:
    """Generate the JSON Schema of the manifest, the content of `schema.json`."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest)), indent=2).decode() + "\n"
