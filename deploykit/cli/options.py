"""Option types that several verbs share: what a user types, as a value, or refused with the reason."""

from __future__ import annotations

import math
import re
from typing import Any, get_args

import click

from deploykit.core.values import BatchRange, DType, InputSpec


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


class Positive(click.ParamType[float]):
    """A finite number above 0."""

    name = "NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`0.00392` as a number."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r}: write a number, such as 0.00392.", param, ctx)
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r}: it must be finite and above 0.", param, ctx)
        return number


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three finite numbers with commas between, in the order of the network's channels; above 0 where `positive`."""

    name = "A,B,C"

    def __init__(self, positive: bool = False) -> None:
        self._positive = positive

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """`0.5,0.5,0.5` as numbers."""
        try:
            first, second, third = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: write three numbers with commas between, such as 0.485,0.456,0.406.", param, ctx)
        if not all(map(math.isfinite, (first, second, third))):
            self.fail(f"{value!r}: all three must be finite.", param, ctx)
        if self._positive and min(first, second, third) <= 0:
            self.fail(f"{value!r}: all three must be above 0.", param, ctx)
        return first, second, third


class Input(click.ParamType[InputSpec]):
    """`NAME=SHAPE:DTYPE` of one sample: `tokens=128:int64`, `points=3x1024:float32`, `age=1:float32`."""

    name = "NAME=SHAPE:DTYPE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> InputSpec:
        """As a value; a leading `N` for the batch may be written, `tokens=Nx128:int64`."""
        found = re.fullmatch(r"(.+)=(?:[Nn]x)?([1-9]\d*(?:x[1-9]\d*)*):(\w+)", str(value))
        if found is None:
            self.fail(f"{value!r}: write NAME=SHAPE:DTYPE of one sample, such as tokens=128:int64.", param, ctx)
        if found[3] not in get_args(DType):
            self.fail(f"{value!r}: {found[3]} is none of {', '.join(get_args(DType))}.", param, ctx)
        return InputSpec(found[1], tuple(map(int, found[2].split("x"))), found[3])  # type: ignore[arg-type]


class Capabilities(click.ParamType[tuple[int, ...]]):
    """GPUs by compute capability, `80,86`; 8.6 is 86."""

    name = "80,86,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """`86,120` as (86, 120), in order, each once. The library says which of them it builds for."""
        found = [re.fullmatch(r"[1-9]\d{1,2}", part.strip()) for part in str(value).split(",")]
        numbers = [int(each[0]) for each in found if each is not None]
        if len(numbers) < len(found):
            self.fail(f"{value!r}: write compute capabilities without dots, such as 86,120.", param, ctx)
        return tuple(sorted(set(numbers)))
