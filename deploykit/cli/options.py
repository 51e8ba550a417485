"""Option types of several commands: they parse what a user types, or refuse it with the reason."""

from __future__ import annotations

import math
import re
from typing import Any, get_args

import click

from deploykit.core.errors import format_unknown
from deploykit.core.values import BatchRange, DType, InputSpec, OutputKind


class Batch(click.ParamType[BatchRange]):
    """`MIN:OPT:MAX`, or one number for a static batch."""

    name = "MIN:OPT:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BatchRange:
        """Parse `1:8:32`, or `4` for 4:4:4."""
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
        """Parse `224x224` as (224, 224)."""
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", str(value))
        if match is None:
            self.fail(f"{value!r}: write height x width in pixels, such as 224x224.", param, ctx)
        return int(match[1]), int(match[2])


class Positive(click.ParamType[float]):
    """A finite number above 0."""

    name = "NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse `0.00392`."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r}: write a number, such as 0.00392.", param, ctx)
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r}: it must be finite and above 0.", param, ctx)
        return number


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three finite numbers separated by commas, in the order of the network's channels; above 0 if `positive`."""

    name = "A,B,C"

    def __init__(self, positive: bool = False) -> None:
        self._positive = positive

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Parse `0.5,0.5,0.5`."""
        try:
            first, second, third = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: write three numbers separated by commas, such as 0.485,0.456,0.406.", param, ctx)
        if not all(map(math.isfinite, (first, second, third))):
            self.fail(f"{value!r}: all three must be finite.", param, ctx)
        if self._positive and min(first, second, third) <= 0:
            self.fail(f"{value!r}: all three must be above 0.", param, ctx)
        return first, second, third


class Input(click.ParamType[InputSpec]):
    """`NAME=SHAPE:DTYPE` of one sample: `tokens=128:int64`, `points=3x1024:float32`, `age=1:float32`."""

    name = "NAME=SHAPE:DTYPE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> InputSpec:
        """Parse an input; a leading `N` for the batch is allowed, `tokens=Nx128:int64`."""
        match = re.fullmatch(r"(.+)=(?:[Nn]x)?([1-9]\d*(?:x[1-9]\d*)*):(\w+)", str(value))
        if match is None:
            self.fail(f"{value!r}: write NAME=SHAPE:DTYPE of one sample, such as tokens=128:int64.", param, ctx)
        if match[3] not in get_args(DType):
            hint = " Give int32, and compare it with 0 in forward()." if match[3] == "bool" else ""
            self.fail(f"{value!r}: {match[3]} is none of {', '.join(get_args(DType))}.{hint}", param, ctx)
        return InputSpec(match[1], tuple(map(int, match[2].split("x"))), match[3])  # type: ignore[arg-type]


class NamedKind(click.ParamType[tuple[str, OutputKind]]):
    """`NAME=KIND` of an output: `boxes=detections`."""

    name = "NAME=KIND"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, OutputKind]:
        """Parse a name and a kind; the name may contain `=`."""
        name, _, kind = str(value).rpartition("=")
        if not name:
            self.fail(f"{value!r}: write NAME=KIND, such as boxes=detections.", param, ctx)
        if kind not in get_args(OutputKind):
            self.fail(f"{value!r}: {format_unknown('kind of output', kind, get_args(OutputKind))}", param, ctx)
        return name, kind  # type: ignore[return-value]


def read_output_kinds(values: tuple[tuple[str, OutputKind], ...]) -> dict[str, OutputKind]:
    """The kinds by output. UsageError for an output that has two."""
    names = [name for name, _ in values]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise click.UsageError(f"{', '.join(sorted(repeated))}: given more than once, by --output-kind.")
    return dict(values)


class Capabilities(click.ParamType[tuple[int, ...]]):
    """GPUs by compute capability, `80,86`; 8.6 is 86."""

    name = "80,86,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse `86,120` as (86, 120), sorted and unique. TensorRT-RTX checks whether it can build for them."""
        parts = [part.strip() for part in str(value).split(",")]
        if not all(re.fullmatch(r"[1-9]\d{1,2}", part) for part in parts):
            self.fail(f"{value!r}: write compute capabilities without dots, such as 86,120.", param, ctx)
        return tuple(sorted(set(map(int, parts))))
