"""Checks that a file named by the user exists and can be read."""

from __future__ import annotations

import os
from pathlib import Path

from deploykit.core.errors import InputError


def require_readable(text: str) -> None:
    """Raise InputError where `text` is not the path of a readable file."""
    path = Path(text)
    if path.is_dir():
        raise InputError(f"{text!r} is a folder.", f"Give the path of a {path.suffix.lower()} file.")
    if not path.is_file():
        raise InputError(f"there is no file {text!r}.", f"Give the path of a {path.suffix.lower()} file.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{text!r} cannot be read: permission denied.", "Grant read permission on the file.")
