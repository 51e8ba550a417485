"""Parses and identifies the source of weights, without building a network or importing torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from deploykit.core.errors import InputError
from deploykit.core.files import hash_file
from deploykit.core.values import Architecture, Pretrained, WeightsSource

INDEX_SUFFIX: Final = ".index.json"
"""Ending of the index of a checkpoint in several files, as Hugging Face's libraries write it."""

CHECKPOINT_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".th", ".pyth", INDEX_SUFFIX)
"""Endings of checkpoints: the first is read by safetensors, the others by torch; `.pth.tar` ends in `.tar`."""

MAX_LISTED: Final = 5
"""Checkpoints of a folder listed in an error message."""


def parse_weights(text: str, seed: int = 0) -> WeightsSource:
    """Parse `random`, `imagenet`, the path of a checkpoint, or `FILE:KEY`; a file named `random` is `./random`."""
    if text == "random":
        return WeightsSource("random", seed=seed)
    if text == "imagenet":
        return WeightsSource("imagenet")
    path, key = split_key(text)
    return WeightsSource("file", path=path, key=key)


def split_key(text: str) -> tuple[str, str | None]:
    """Split `FILE:KEY` into the path of a checkpoint and the name of a state dict in it, None without one.

    Names of files may contain colons: a file that exists is taken whole, then the longest beginning that is a file,
    then, for the error message, the longest that ends like a checkpoint.
    """
    splits = [(text[:at], text[at + 1 :]) for at in range(len(text) - 1, 0, -1) if text[at] == ":"]
    if not Path(text).exists():
        for is_path in (os.path.isfile, lambda path: path.lower().endswith(CHECKPOINT_SUFFIXES)):
            for path, key in splits:
                if is_path(path):
                    return path, key
    return text, None


def weights_identity(source: WeightsSource) -> str:
    """Return a cache key that is equal for equal weights: a file's SHA-256 (with its key; of several files, all of
    theirs), `random:SEED`, `imagenet` or `own`.
    """
    match source.kind:
        case "random":
            return f"random:{source.seed}"
        case "imagenet" | "own":
            return source.kind
        case "file":
            digests = " ".join(map(hash_file, list_checkpoint_files(require_checkpoint(source))))
            return digests if source.key is None else f"{digests}:{source.key}"


def list_checkpoint_files(path: Path) -> list[Path]:
    """List the files that a checkpoint consists of: itself and, for an index, those that it names in its folder.

    Raises InputError where an index is damaged, names files elsewhere, or names files that are missing.
    """
    return [path, *(path.parent / name for name in read_index(path))] if is_index(path) else [path]


def is_index(path: Path) -> bool:
    """Whether the file is the index of a checkpoint in several files."""
    return path.name.lower().endswith(INDEX_SUFFIX)


def read_index(path: Path) -> list[str]:
    """Return the names of the files that an index lists, sorted. Raises InputError as `list_checkpoint_files` does."""
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        elsewhere = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{str(path)!r} is not the index of a checkpoint: it has no weight_map from names to files.",
            "Copy it again, or give the checkpoint file itself.",
        ) from error
    if elsewhere:
        raise InputError(f"{str(path)!r} lists {elsewhere[0]!r}, a path.", "An index lists files of its own folder.")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{str(path)!r} lists {len(names)} files, and {len(missing)} of them are missing, first {missing[0]!r}.",
            f"Copy them to {str(path.parent)!r}.",
        )
    return names


def require_released_weights(architecture: Architecture) -> Pretrained:
    """Return the released weights of the network. Raises InputError where there are none."""
    if architecture.pretrained is None:
        raise InputError(
            f"no ImageNet weights are released for {architecture.name}.",
            "Give your own with --weights PATH, or try the pipeline with --weights random.",
        )
    return architecture.pretrained


def require_checkpoint(source: WeightsSource) -> Path:
    """Return the path of the checkpoint. Raises InputError where it is not a readable checkpoint file."""
    path = Path(source.path or "")
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.name.lower().endswith(CHECKPOINT_SUFFIXES))
        more = f" and {len(inside) - MAX_LISTED} more" if len(inside) > MAX_LISTED else ""
        names = f" It has {', '.join(inside[:MAX_LISTED])}{more}." if inside else ""
        raise InputError(f"{str(path)!r} is a folder.{names}", "Give the checkpoint file inside it.")
    if not path.is_file():
        raise InputError(
            f"there are no weights {str(path)!r}.",
            f"Give random, imagenet, or a file ({', '.join(CHECKPOINT_SUFFIXES)}).",
        )
    if not path.name.lower().endswith(CHECKPOINT_SUFFIXES):
        raise InputError(
            f"{str(path)!r} is not a supported checkpoint file.",
            f"Supported endings: {', '.join(CHECKPOINT_SUFFIXES)}.",
        )
    if not os.access(path, os.R_OK):
        raise InputError(
            f"the weights {str(path)!r} cannot be read: permission denied.", "Grant read permission on the file."
        )
    return path
