"""From a name and `--arch KEY=VALUE` to an Architecture and typed arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

import architectures
from architectures import CATALOG
from deploykit.errors import InputError, UsageError, unknown
from deploykit.values import Architecture, Argument, CatalogRow


def rows() -> tuple[CatalogRow, ...]:
    """Every network's figures, without importing any network."""
    text = Path(architectures.__file__).with_name("catalog.json").read_bytes()
    return msgspec.json.decode(text, type=tuple[CatalogRow, ...])


def known(name: str) -> None:
    """InputError, with the nearest names, for a network that the catalog does not have."""
    if name not in CATALOG:
        raise InputError(unknown("model", name, CATALOG), "deploykit list shows them all.")


def find(name: str) -> Architecture:
    """The network of that name. This imports torch."""
    known(name)
    module, _, attribute = CATALOG[name].partition(":")
    found: Architecture = getattr(importlib.import_module(module), attribute)
    return found


def arguments(architecture: Architecture, texts: Sequence[str]) -> dict[str, Argument]:
    """`["growth_rate=24"]` as the constructor's types. UsageError for unknown keys and values of another type."""
    hints = get_type_hints(architecture.build.__init__ if inspect.isclass(architecture.build) else architecture.build)
    hints.pop("return", None)
    parsed = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--arch {text!r} is not KEY=VALUE.", f"{architecture.name} takes {_choices(hints)}.")
        if key not in hints:
            raise UsageError(unknown(f"argument of {architecture.name}", key, hints), "")
        parsed[key] = _parse(key, value, hints[key])
    return parsed


def _parse(key: str, text: str, hint: Any) -> Argument:
    try:
        match get_origin(hint) or hint:
            case origin if origin is Literal:
                return _one_of(text, get_args(hint))
            case origin if origin is tuple:
                return tuple(int(part) for part in text.split(","))
            case origin if origin is bool:
                return {"true": True, "false": False}[text.lower()]
            case origin if origin in (int, float):
                number: int | float = hint(text)
                return number
            case _:
                return text
    except (ValueError, KeyError):
        raise UsageError(f"--arch {key}={text}: {text!r} is not {_described(hint)}.", "") from None


def _one_of(text: str, choices: tuple[Any, ...]) -> Argument:
    for choice in choices:
        if str(choice) == text:
            found: Argument = choice
            return found
    raise ValueError


def _choices(hints: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_described(hint)}" for key, hint in hints.items())


def _described(hint: Any) -> str:
    """`an integer`, `one of 1x1, 3x3`: a type in a user's words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return "integers with commas between"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a word"}.get(hint, str(hint))
