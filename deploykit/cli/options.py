"""Option types that several verbs share: what a user types, as a value, or refused with the reason."""

from __future__ import annotations

import re
from typing import Any

import click

from deploykit.values import BatchRange


class Batch(click.ParamType[BatchRange]):
    """`MIN:OPT:MAX`, or one number for a static batch."""

    name = "MIN:OPT:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BatchRange:
        """`1:8:32`, or `4` for 4:4:4."""
        if isinstance(value, BatchRange):
            return value
        try:
            sizes = [int(part) for part in str(value).split(":")]
            low, best, high = sizes * 3 if len(sizes) == 1 else sizes
            return BatchRange(low, best, high)
        except ValueError as error:
            reason = str(error) if "batch sizes" in str(error) else "write MIN:OPT:MAX, such as 1:8:32, or one number"
            self.fail(f"{value!r}: {reason}.", param, ctx)


class Size(click.ParamType[tuple[int, int]]):
    """`HxW` in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """`224x224` as (224, 224)."""
        found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", str(value))
        if found is None:
            self.fail(f"{value!r}: write height, x, width in pixels, such as 224x224.", param, ctx)
        return int(found[1]), int(found[2])


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three numbers with commas between, in the order of the network's channels."""

    name = "A,B,C"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """`0.5,0.5,0.5` as numbers."""
        try:
            first, second, third = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: write three numbers with commas between, such as 0.485,0.456,0.406.", param, ctx)
        return first, second, third
