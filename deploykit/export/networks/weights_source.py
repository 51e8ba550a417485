"""Which weights are meant, and what identifies them, without building a network (or importing torch)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from deploykit.core.errors import InputError
from deploykit.core.files import sha256
from deploykit.core.values import Architecture, Pretrained, WeightsSource

SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""Checkpoints that can be read: the first by safetensors, the others by torch."""


def parse_weights(text: str, seed: int = 0) -> WeightsSource:
    """`random`, `imagenet`, or the path of a checkpoint; a file called `random` is `./random`."""
    if text == "random":
        return WeightsSource("random", seed=seed)
    if text == "imagenet":
        return WeightsSource("imagenet")
    return WeightsSource("file", path=text)


def identity(source: WeightsSource) -> str:
    """A key for the cache, equal for equal weights of one network: a file's SHA-256, `random:SEED` or `imagenet`."""
    match source.kind:
        case "random":
            return f"random:{source.seed}"
        case "imagenet" | "own":
            return source.kind
        case "file":
            return sha256(checkpoint(source))


def released(architecture: Architecture) -> Pretrained:
    """The weights that torchvision releases for the network."""
    if architecture.pretrained is None:
        raise InputError(
            f"no ImageNet weights were ever released for {architecture.name}.",
            "Give --weights PATH with your own, or --weights random to try the pipeline.",
        )
    return architecture.pretrained


def checkpoint(source: WeightsSource) -> Path:
    """The file that holds the weights."""
    path = Path(source.path or "")
    if path.is_dir():
        raise InputError(f"the weights {str(path)!r} are a folder.", "Give the checkpoint file inside it.")
    if not path.is_file():
        raise InputError(
            f"there are no weights {str(path)!r}.", f"Give random, imagenet, or a file ({', '.join(SUFFIXES)})."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{str(path)!r} does not end like a checkpoint.", f"Checkpoints end in {', '.join(SUFFIXES)}.")
    if not os.access(path, os.R_OK):
        raise InputError(f"the weights {str(path)!r} may not be read.", "Grant read permission on the file.")
    return path
