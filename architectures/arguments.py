"""What every constructor says when an argument is refused: which one, of which network, and what would be taken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Choice = TypeVar("Choice")


def require_at_least(minimum: int, network: str, **arguments: int) -> None:
    """Refuse any of the named integers that is smaller than `minimum`."""
    for name, value in arguments.items():
        if value < minimum:
            raise ValueError(f"{network}: {name} is at least {minimum}, not {value}")


def require_sizes(network: str, **arguments: tuple[int, ...]) -> None:
    """Refuse an empty tuple, and a tuple that holds anything below 1."""
    for name, values in arguments.items():
        if not values or min(values) < 1:
            raise ValueError(f"{network}: {name} is a comma-separated list of sizes from 1 up, not {values}")


def require_choice(choices: Iterable[Choice], network: str, **arguments: Choice) -> None:
    """Refuse a value that is none of `choices`."""
    known = tuple(choices)
    for name, value in arguments.items():
        if value not in known:
            raise ValueError(f"{network}: unknown {name} {value!r}; choose {', '.join(map(str, known))}")


def require_share(network: str, **arguments: float) -> None:
    """Refuse a number outside [0, 1): nothing is left where everything is dropped."""
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ValueError(f"{network}: {name} is at least 0 and below 1, not {value}")
