"""Tactic timings, kept from build to build: the second build of a network times nothing again.

One file per GPU and version of TensorRT, which refuses one of another GPU or version by itself too. Processes that
build at once each add what they timed. TensorRT-RTX times nothing while it builds, and keeps none.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import filelock

from deploykit.backends.tensorrt.building import Config
from deploykit.core import cache
from deploykit.core.files import explained, replace_file


def file(gpu: str, version: str) -> Path:
    """Where the timings of that GPU and version lie: beside deploykit's other caches."""
    return cache.folder() / "timing" / f"{_word(gpu)}-{_word(version)}.cache"


def load(config: Config, path: Path) -> None:
    """Give the builder what was timed before. Made before the build: a folder that cannot be written is found now."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, path.parent, cache.REMEDY) from error
    config.use_timings(_read(path))


def save(config: Config, path: Path) -> str | None:
    """Add what the builder timed to the file; the SHA-256 of what stands there now. None where it kept nothing."""
    try:
        with filelock.FileLock(path.with_suffix(".lock")):
            timings = config.timings(_read(path))
            if timings is None:
                return None
            replace_file(path, timings, cache.REMEDY)
            return hashlib.sha256(timings).hexdigest()
    except OSError as error:
        raise explained(error, path, cache.REMEDY) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise explained(error, path, cache.REMEDY) from error


def _word(text: str) -> str:
    """`NVIDIA H200` as `nvidia-h200`: what any file system takes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"
