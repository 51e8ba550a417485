"""What the measuring scripts refuse before they measure: numbers that are too small, and networks that nobody has."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from deploykit.core.errors import DeploykitError
from deploykit.evaluate.latency.statistics import FEWEST_PAIRS
from deploykit.export.networks import catalog


def at_least(fewest: int, why: str = "") -> Callable[[str], int]:
    """An argument's type: a whole number that is not below `fewest`, else argparse says so, and `why`."""

    def number(text: str) -> int:
        try:
            given = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if given < fewest:
            raise argparse.ArgumentTypeError(f"{given} is too few: {fewest} at least{why}")
        return given

    return number


pairs: Final = at_least(FEWEST_PAIRS, ", since no 95 % interval can be had from fewer pairs")
"""The type of what counts the pairs that a ratio is the median of."""


def known_network(name: str) -> str:
    """The type of a name of the catalog."""
    try:
        catalog.known(name)
    except DeploykitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name
