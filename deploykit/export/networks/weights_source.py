"""Parses and identifies the source of weights, without building a network or importing torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from deploykit.core.errors import InputError
from deploykit.core.files import hash_file
from deploykit.core.values import Architecture, Pretrained, WeightsSource

CHECKPOINT_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""Endings of checkpoints: the first is read by safetensors, the others by torch."""


def parse_weights(text: str, seed: int = 0) -> WeightsSource:
    """Parse `random`, `imagenet` or the path of a checkpoint; a file named `random` is `./random`."""
    if text == "random":
        return WeightsSource("random", seed=seed)
    if text == "imagenet":
        return WeightsSource("imagenet")
    return WeightsSource("file", path=text)


def weights_identity(source: WeightsSource) -> str:
    """Return a cache key that is equal for equal weights: a file's SHA-256, `random:SEED`, `imagenet` or `own`."""
    match source.kind:
        case "random":
            return f"random:{source.seed}"
        case "imagenet" | "own":
            return source.kind
        case "file":
            return hash_file(require_checkpoint(source))


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
        raise InputError(f"{str(path)!r} is a folder.", "Give the checkpoint file inside it.")
    if not path.is_file():
        raise InputError(
            f"there are no weights {str(path)!r}.",
            f"Give random, imagenet, or a file ({', '.join(CHECKPOINT_SUFFIXES)}).",
        )
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise InputError(
            f"{str(path)!r} is not a supported checkpoint file.",
            f"Supported endings: {', '.join(CHECKPOINT_SUFFIXES)}.",
        )
    if not os.access(path, os.R_OK):
        raise InputError(
            f"the weights {str(path)!r} cannot be read: permission denied.", "Grant read permission on the file."
        )
    return path
