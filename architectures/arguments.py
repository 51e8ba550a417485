"""Checks of constructor arguments. Their messages name the network, the argument and the valid values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Choice = TypeVar("Choice")


def require_at_least(minimum: int, network: str, **arguments: int) -> None:
    """Raise ValueError for an integer that is smaller than `minimum`."""
    for name, value in arguments.items():
        if value < minimum:
            raise ValueError(f"{network}: {name} is at least {minimum}, not {value}")


def require_sizes(network: str, **arguments: tuple[int, ...]) -> None:
    """Raise ValueError for an empty tuple, or one with a value below 1."""
    for name, values in arguments.items():
        if not values or min(values) < 1:
            raise ValueError(f"{network}: {name} is a comma-separated list of sizes from 1 up, not {values}")


def require_choice(choices: Iterable[Choice], network: str, **arguments: Choice) -> None:
    """Raise ValueError for a value that is not one of `choices`."""
    valid = tuple(choices)
    for name, value in arguments.items():
        if value not in valid:
            raise ValueError(f"{network}: unknown {name} {value!r}; choose {', '.join(map(str, valid))}")


def require_share(network: str, **arguments: float) -> None:
    """Raise ValueError for a number outside [0, 1): at 1, everything would be dropped."""
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ValueError(f"{network}: {name} is at least 0 and below 1, not {value}")
