"""Our own networks by name, and `--arch KEY=VALUE` as the types that a network's builder takes."""

from __future__ import annotations

import ast
import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from deploykit.core.errors import InputError, UsageError, unknown
from deploykit.core.values import Architecture, Argument, CatalogRow
from deploykit.export import architectures
from deploykit.export.architectures import CATALOG


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
    """`["growth_rate=24"]` as the builder's types. UsageError for unknown keys and values of another type.

    A type is the parameter's annotation, else its default's. Where neither tells, and for what `**kwargs` takes, the
    value is read as a literal of Python, or is a word.
    """
    hints, takes_any = parameters(architecture.build)
    parsed = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--arch {text!r} is not KEY=VALUE.", f"{architecture.name} takes {_choices(hints)}.")
        if key not in hints and not takes_any:
            if not hints:
                raise UsageError(f"{architecture.name} takes no --arch arguments, and {key!r} was given.", "")
            raise UsageError(unknown(f"argument of {architecture.name}", key, hints), "")
        parsed[key] = _parse(key, value, hints.get(key, Any))
    return parsed


def parameters(build: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """The keyword arguments that a builder takes, with their types, and whether it takes any other besides."""
    try:
        annotated = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    except Exception:  # an annotation may name what is imported for type checkers only, and raise whatever it likes
        annotated = {}
    taken = inspect.signature(build).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    hints = {each.name: annotated.get(each.name, _default_type(each)) for each in taken if each.kind in by_name}
    return hints, any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken)


def sayable(hint: Any) -> bool:
    """Whether `--arch` can say a value of that type: no modules, no callables, no dictionaries."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(map(sayable, inner))
    if origin in SEQUENCES:
        return int in inner
    return origin is Literal or hint in (int, float, bool, str, Any, object)


SEQUENCES: Final = (tuple, list, Sequence)
"""What integers with commas between may become; the builder is given a tuple."""


def _default_type(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if isinstance(default, tuple | list):
        return tuple[int, ...] if all(type(part) is int for part in default) and default else Any
    return type(default) if isinstance(default, bool | int | float | str) else Any


def _parse(key: str, text: str, hint: Any) -> Argument:
    try:
        return _parsed(text, hint)
    except (ValueError, KeyError):
        raise UsageError(f"--arch {key}={text}: {text!r} is not {_described(hint)}.", "") from None


def _parsed(text: str, hint: Any) -> Argument:
    match get_origin(hint) or hint:
        case origin if origin is Literal:
            return _one_of(text, get_args(hint))
        case origin if origin in (Union, types.UnionType):
            return _first_of(text, [each for each in get_args(hint) if each is not types.NoneType])
        case origin if origin in SEQUENCES:
            return tuple(int(part) for part in text.split(","))
        case origin if origin is bool:
            return {"true": True, "false": False}[text.lower()]
        case origin if origin in (int, float):
            number: int | float = hint(text)
            return number
        case origin if origin is str:
            return text
        case origin if origin in (Any, object):
            return _literal(text)
        case _:
            raise ValueError


def _first_of(text: str, hints: Sequence[Any]) -> Argument:
    """As the first type that it is a value of; as a word only where it is nothing else."""
    for hint in sorted(hints, key=lambda each: each is str):
        try:
            return _parsed(text, hint)
        except (ValueError, KeyError):
            continue
    raise ValueError


def _literal(text: str) -> Argument:
    """As Python reads it; `true` and `false` too; else a word. ValueError for what no `Argument` is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    if isinstance(value, tuple | list) and all(type(part) is int for part in value):
        return tuple(value)
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError


def _one_of(text: str, choices: tuple[Any, ...]) -> Argument:
    for choice in choices:
        if str(choice) == text:
            found: Argument = choice
            return found
    raise ValueError


def _choices(hints: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_described(hint)}" for key, hint in hints.items()) or "no arguments"


def _described(hint: Any) -> str:
    """`an integer`, `one of 1x1, 3x3`: a type in a user's words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_described(each) for each in get_args(hint) if each is not types.NoneType)
    if (get_origin(hint) or hint) in SEQUENCES:
        return "integers with commas between"
    if hint in (Any, object):
        return "an integer, a number, true or false, a word, or integers with commas between"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}
    return words.get(hint, "anything that --arch can say")
