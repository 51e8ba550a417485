"""Option types of `bench`: what a user types, as a value, or refused with the reason."""

from __future__ import annotations

import math
import re
from typing import Any

import click


class Sizes(click.ParamType[tuple[int, ...]]):
    """Batch sizes with commas between, `1,2,4,8`."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """`8,1` as (1, 8): in order, each once. The bundle says which of them it takes."""
        parts = str(value).split(",")
        if not all(re.fullmatch(r"\s*[1-9]\d{0,6}\s*", part, re.ASCII) for part in parts):
            self.fail(f"{value!r}: write batch sizes with commas between, such as 1,2,4,8.", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


class Within(click.ParamType[float]):
    """A number between two bounds, both allowed."""

    name = "NUMBER"

    def __init__(self, least: float, most: float, unit: str) -> None:
        self._least = least
        self._most = most
        self._unit = unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`2.5` as a number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._least <= number <= self._most:  # no number is between no numbers
            bounds = f"{self._least:g} to {self._most:g}"
            self.fail(f"{value!r}: write a number of {self._unit}, {bounds}.", param, ctx)
        return number


class Limit(click.ParamType[float]):
    """`slower:5%`: the ratio that is allowed."""

    name = "slower:PERCENT%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`slower:5%` as 1.05."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"slower:(\d{1,4}(?:\.\d{1,6})?)%", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r}: write slower:, a number, %, such as slower:5%.", param, ctx)
        return 1 + float(found[1]) / 100
