"""Where networks come from: resolves the MODEL argument to an `Architecture`.

resnet50                      a network of the catalog
torchvision:NAME              a classifier of torchvision
timm:NAME                     a classifier of timm, as NAME or NAME.TAG
my_package.models:build_net   a function, an nn.Module class or an nn.Module instance of the user's own code
PATH.pt2, PATH.onnx           a file with network and weights; an ONNX file has no `Architecture`
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

from deploykit.core.errors import BackendError, InputError, format_unknown
from deploykit.core.values import Architecture
from deploykit.export.architectures import CATALOG
from deploykit.export.networks import catalog
from deploykit.export.networks.catalog import parse_arguments

__all__ = ["find_architecture", "network_identity", "parse_arguments", "released_classes", "require_known_model"]


class Source(Protocol):
    """A module of this folder. `name` is the MODEL argument, without the library's prefix where it has one."""

    def require_known_model(self, name: str) -> None:
        """Raise InputError for what cannot be a network. Imports no library and runs no user code."""

    def find_architecture(self, name: str) -> Architecture:
        """Describe the network. May import torch, the library or the user's code."""
        ...

    def network_identity(self, name: str) -> str:
        """Return a cache key of the code or file that defines the network."""
        ...


class Library(Source, Protocol):
    """A source that lists its networks and releases weights for them."""

    def list_models(self) -> dict[str, str]:
        """Map the name of each network to the folder of the library that defines it."""
        ...

    def released_classes(self, released: str) -> tuple[str, ...]:
        """Return the class names of the released weights; empty where the library has none."""
        ...


LIBRARIES: Final = ("torchvision", "timm")
"""Prefixes that name a library; each has a module here."""

FILE_SUFFIXES: Final = (".pt2", ".onnx")
"""Endings of files that hold a network."""


def require_known_model(text: str) -> None:
    """Raise InputError, with the nearest names, for what cannot be a network. Imports no library, runs no user code."""
    source = _open_source(text)
    if source is None:
        _require_in_catalog(text)
    else:
        source.require_known_model(_local_name(text))


def find_architecture(text: str) -> Architecture:
    """Describe the network that `text` names. Imports torch and, for a network of the user's own, the user's code."""
    require_known_model(text)
    source = _open_source(text)
    return catalog.find_architecture(text) if source is None else source.find_architecture(_local_name(text))


def network_identity(text: str) -> str:
    """Return a cache key of what defines the network outside deploykit: the library's version, or the digest of the
    user's files. Equal keys build equal networks.
    """
    source = _open_source(text)
    return text if source is None else source.network_identity(_local_name(text))


def released_classes(released: str) -> tuple[str, ...]:
    """Return the names of the classes that released weights were trained on; empty where the release has none.

    `released` is the name of the weights (`Pretrained.enum`).
    """
    prefix, colon, name = released.partition(":")
    return (
        _open_library(prefix).released_classes(name)
        if colon
        else _open_library("torchvision").released_classes(released)
    )


def _open_source(text: str) -> Source | None:
    """The module that is responsible for `text`; None for the catalog."""
    prefix, colon, _ = text.partition(":")
    if text.lower().endswith(FILE_SUFFIXES):
        return cast(Source, import_module(f"{__name__}.file"))
    if not colon:
        return None
    return _open_library(prefix) if prefix in LIBRARIES else cast(Source, import_module(f"{__name__}.callable"))


def _open_library(name: str) -> Library:
    return cast(Library, import_module(f"{__name__}.{name}"))


def _local_name(text: str) -> str:
    prefix, _, name = text.partition(":")
    return name if prefix in LIBRARIES and not text.lower().endswith(FILE_SUFFIXES) else text


def _require_in_catalog(name: str) -> None:
    """Raise InputError for a name that the catalog does not have, with the spelling that would find it elsewhere."""
    if name in CATALOG:
        return
    if Path(name).is_file():
        raise InputError(
            f"{name!r} is not a supported model file: those end in {' or '.join(FILE_SUFFIXES)}.",
            "Name the network and give its checkpoint with --weights; for a network in Python, give module:callable.",
        )
    elsewhere = [f"{library}:{name}" for library in LIBRARIES if _library_has(library, name)]
    if elsewhere:
        raise InputError(f"the catalog has no model {name!r}; did you mean {' or '.join(elsewhere)}?", "")
    remedy = (
        "deploykit list prints the catalog. Other networks: torchvision:NAME, timm:NAME or package.module:callable."
    )
    raise InputError(format_unknown("model", name, CATALOG), remedy)


def _library_has(library: str, name: str) -> bool:
    try:
        return name.partition(".")[0] in _open_library(library).list_models()
    except BackendError:  # the library is not installed
        return False
