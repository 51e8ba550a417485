"""TensorRT's timing cache, kept between builds: the second build of a network times no tactics.

One file per GPU and TensorRT version; TensorRT itself also rejects a cache of another GPU or version. Concurrent
processes each add their timings. TensorRT-RTX times nothing while it builds and has no cache.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import filelock

from deploykit.backends.tensorrt.builder import Config
from deploykit.core import cache
from deploykit.core.files import explain_os_error, replace_file


def timings_file(gpu: str, version: str) -> Path:
    """The cache file for that GPU and version, in deploykit's cache folder."""
    return cache.cache_folder() / "timing" / f"{_to_file_name(gpu)}-{_to_file_name(version)}.cache"


def load_timings(config: Config, path: Path) -> None:
    """Load the cache file into the configuration. Creates the folder: an unwritable one fails before the build."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, path.parent, cache.REMEDY) from error
    config.use_timings(_read_timings(path))


def save_timings(config: Config, path: Path) -> str | None:
    """Merge the builder's timings into the file and return the file's SHA-256; None where the builder has none."""
    try:
        with filelock.FileLock(path.with_suffix(".lock")):
            timings = config.merge_timings(_read_timings(path))
            if timings is None:
                return None
            replace_file(path, timings, cache.REMEDY)
            return hashlib.sha256(timings).hexdigest()
    except OSError as error:
        raise explain_os_error(error, path, cache.REMEDY) from error


def _read_timings(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise explain_os_error(error, path, cache.REMEDY) from error


def _to_file_name(text: str) -> str:
    """`NVIDIA H200` → `nvidia-h200`, valid on any file system."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"
