"""Values as JSON: a versioned document, the same for every verb's --json."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

DOCUMENT_VERSION = 1


def encode_document(kind: str, content: msgspec.Struct | Sequence[msgspec.Struct]) -> str:
    """`{"deploykit": 1, "kind": kind, "content": …}`, pretty-printed."""
    whole = {"deploykit": DOCUMENT_VERSION, "kind": kind, "content": content}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode()
