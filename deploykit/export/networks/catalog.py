"""The catalog's networks by name, and parsing of `--model-arg KEY=VALUE` by the types of a builder's parameters."""

from __future__ import annotations

import ast
import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from deploykit.core.errors import InputError, UsageError, format_unknown
from deploykit.core.values import Architecture, Argument, CatalogRow
from deploykit.export import architectures
from deploykit.export.architectures import CATALOG


def read_catalog() -> tuple[CatalogRow, ...]:
    """Return the figures of every network, without importing any."""
    text = Path(architectures.__file__).with_name("catalog.json").read_bytes()
    return msgspec.json.decode(text, type=tuple[CatalogRow, ...])


def require_known_model(name: str) -> None:
    """Raise InputError, with the nearest names, for a network that the catalog does not have."""
    if name not in CATALOG:
        raise InputError(format_unknown("model", name, CATALOG), "deploykit list prints the catalog.")


def find_architecture(name: str) -> Architecture:
    """Return the network of that name. Imports torch."""
    require_known_model(name)
    module, _, attribute = CATALOG[name].partition(":")
    architecture: Architecture = getattr(importlib.import_module(module), attribute)
    return architecture


def parse_arguments(architecture: Architecture, texts: Sequence[str]) -> dict[str, Argument]:
    """Convert `["growth_rate=24"]` to the types of the builder's parameters.

    The type is the parameter's annotation, else that of its default. Without either, and for `**kwargs`, a value is
    parsed as a Python literal, else it stays a string. Raises UsageError for unknown keys and values of another type.
    """
    hints, takes_any = builder_parameters(architecture.build)
    parsed = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(
                f"--model-arg {text!r} is not KEY=VALUE.", f"{architecture.name} takes {_describe_parameters(hints)}."
            )
        if key not in hints and not takes_any:
            if not hints:
                raise UsageError(f"{architecture.name} takes no --model-arg, and {key!r} was given.", "Leave it out.")
            raise UsageError(format_unknown(f"argument of {architecture.name}", key, hints), "")
        parsed[key] = _parse_argument(key, value, hints.get(key, Any))
    return parsed


def builder_parameters(build: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the builder's keyword parameters with their types, and whether it has `**kwargs`."""
    try:
        annotated = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    except Exception:  # an annotation may use names that are imported for type checkers only
        annotated = {}
    parameters = inspect.signature(build).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [parameter for parameter in parameters if parameter.kind in by_name]
    hints = {parameter.name: annotated.get(parameter.name, _default_type(parameter)) for parameter in named}
    return hints, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def is_expressible(hint: Any) -> bool:
    """Whether a value of that type can be given as text: not a module, a callable or a dictionary."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(map(is_expressible, inner))
    if origin in SEQUENCES:
        return int in inner
    return origin is Literal or hint in (int, float, bool, str, Any, object)


SEQUENCES: Final = (tuple, list, Sequence)
"""Types that comma-separated integers are accepted for; the builder gets a tuple."""


def _default_type(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if isinstance(default, tuple | list):
        return tuple[int, ...] if all(type(part) is int for part in default) and default else Any
    return type(default) if isinstance(default, bool | int | float | str) else Any


def _parse_argument(key: str, text: str, hint: Any) -> Argument:
    try:
        return _parse_value(text, hint)
    except (ValueError, KeyError):
        raise UsageError(f"--model-arg {key}={text}: {text!r} is not {_describe_type(hint)}.", "") from None


def _parse_value(text: str, hint: Any) -> Argument:
    match get_origin(hint) or hint:
        case origin if origin is Literal:
            return _parse_choice(text, get_args(hint))
        case origin if origin in (Union, types.UnionType):
            return _parse_union(text, [member for member in get_args(hint) if member is not types.NoneType])
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
            return _parse_literal(text)
        case _:
            raise ValueError


def _parse_union(text: str, hints: Sequence[Any]) -> Argument:
    """Parse as the first type that fits; as a string only where no other does."""
    for hint in sorted(hints, key=lambda member: member is str):
        try:
            return _parse_value(text, hint)
        except (ValueError, KeyError):
            continue
    raise ValueError


def _parse_literal(text: str) -> Argument:
    """Parse as a Python literal, `true` or `false`, else as a string. Raises ValueError for any other literal."""
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


def _parse_choice(text: str, choices: tuple[Any, ...]) -> Argument:
    for choice in choices:
        if str(choice) == text:
            argument: Argument = choice
            return argument
    raise ValueError


def _describe_parameters(hints: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_describe_type(hint)}" for key, hint in hints.items()) or "no arguments"


def _describe_type(hint: Any) -> str:
    """Describe a type in an error message: `an integer`, `one of 1x1, 3x3`."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe_type(member) for member in get_args(hint) if member is not types.NoneType)
    if (get_origin(hint) or hint) in SEQUENCES:
        return "comma-separated integers"
    if hint in (Any, object):
        return "an integer, a number, true or false, a string, or comma-separated integers"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(hint, "a value of a type that --model-arg supports")
