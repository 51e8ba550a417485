"""Option types of `bench`: they parse what a user types, or refuse it with the reason."""

from __future__ import annotations

import math
import re
from typing import Any

import click


class BatchSizes(click.ParamType[tuple[int, ...]]):
    """Batch sizes separated by commas, `1,2,4,8`."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse `8,1` as (1, 8): sorted and unique. The bundle limits which of them are allowed."""
        parts = str(value).split(",")
        if not all(re.fullmatch(r"\s*[1-9]\d{0,6}\s*", part, re.ASCII) for part in parts):
            self.fail(f"{value!r}: write batch sizes separated by commas, such as 1,2,4,8.", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


class BoundedNumber(click.ParamType[float]):
    """A number between two bounds, inclusive."""

    name = "NUMBER"

    def __init__(self, minimum: float, maximum: float, unit: str) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._unit = unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse `2.5`."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._minimum <= number <= self._maximum:  # false for NaN too
            bounds = f"{self._minimum:g} to {self._maximum:g}"
            self.fail(f"{value!r}: write a number of {self._unit}, {bounds}.", param, ctx)
        return number


class SlowdownLimit(click.ParamType[float]):
    """`slower:5%`: the largest ratio allowed."""

    name = "slower:PERCENT%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse `slower:5%` as 1.05."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"slower:(\d{1,4}(?:\.\d{1,6})?)%", str(value), re.ASCII)
        if match is None:
            self.fail(f"{value!r}: write slower:NUMBER%, such as slower:5%.", param, ctx)
        return 1 + float(match[1]) / 100
