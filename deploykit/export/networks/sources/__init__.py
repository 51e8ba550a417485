"""Where networks come from: from a text to an `Architecture`.

resnet50                      the catalog
torchvision:NAME              a classifier of torchvision
timm:NAME                     a classifier of timm, as NAME or NAME.TAG
my_package.models:build_net   a callable, an nn.Module class or an nn.Module of the user's own code
PATH.pt2, PATH.onnx           a file that holds network and weights; an ONNX file is no `Architecture`
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from deploykit.core.errors import BackendError, InputError, unknown
from deploykit.core.values import Architecture
from deploykit.export.architectures import CATALOG
from deploykit.export.networks import catalog
from deploykit.export.networks.catalog import arguments
from deploykit.export.networks.readable_file import require_readable

__all__ = ["arguments", "classes", "find", "identity", "known"]

LIBRARIES: Final = ("torchvision", "timm")
"""Prefixes that name a library; each has a module here."""

FILES: Final = (".pt2", ".onnx")
"""Endings of files that hold a network."""


def known(text: str) -> None:
    """InputError, with the nearest names, for what is certainly no network. Nothing is imported, no code is run."""
    prefix, colon, name = text.partition(":")
    if text.lower().endswith(FILES):
        require_readable(text)
    elif not colon:
        _known_here(text)
    elif prefix in LIBRARIES:
        _source(prefix).known(name)
    else:
        _source("callable").known(text)


def find(text: str) -> Architecture:
    """The network of that name. This imports torch, and the user's code where it is the user's."""
    known(text)
    prefix, colon, name = text.partition(":")
    found: Architecture
    if text.lower().endswith(FILES):
        program: Architecture = _source("file").find(text)
        return program
    if not colon:
        return catalog.find(text)
    found = _source(prefix).find(name) if prefix in LIBRARIES else _source("callable").find(text)
    return found


def identity(text: str) -> str:
    """What the network depends on besides our own code, as a key: the library's version, or the digest of the user's
    files. Equal keys build equal networks.
    """
    prefix, colon, name = text.partition(":")
    if text.lower().endswith(FILES):
        content: str = _source("file").identity(text)
        return content
    if not colon:
        return text
    key: str = _source(prefix).identity(name) if prefix in LIBRARIES else _source("callable").identity(text)
    return key


def classes(released: str) -> tuple[str, ...]:
    """Names of the classes that released weights were trained to tell apart, by the weights' own name
    (`Pretrained.enum`); none where they came without.
    """
    prefix, colon, name = released.partition(":")
    names: tuple[str, ...] = _source(prefix).classes(name) if colon else _source("torchvision").classes(released)
    return names


def _source(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


def _known_here(name: str) -> None:
    """A name of the catalog; for a name that only a library knows, how to say it."""
    if name in CATALOG:
        return
    if Path(name).is_file():
        raise InputError(
            f"{name!r} is a file that does not end in {' or '.join(FILES)}, and holds no network that goes in.",
            "Name the network and give its checkpoint with --weights; a network in Python goes in as module:callable.",
        )
    elsewhere = [f"{library}:{name}" for library in LIBRARIES if _has(_source(library).names, name)]
    if elsewhere:
        raise InputError(f"the catalog has no model {name!r}; did you mean {' or '.join(elsewhere)}?", "")
    remedy = "deploykit list shows them all. Others go in as torchvision:NAME, timm:NAME or package.module:callable."
    raise InputError(unknown("model", name, CATALOG), remedy)


def _has(names: Callable[[], Any], name: str) -> bool:
    try:
        return name.partition(".")[0] in names()
    except BackendError:  # the library is not installed
        return False
