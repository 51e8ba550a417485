"""What a precision costs, in the terms of an output's kind."""

from __future__ import annotations

import math
import sys
from typing import Final, Literal

from deploykit.core.values.base import Value

OutputKind = Literal["classes", "map", "detections", "boxes", "embedding", "scalar", "sequence", "tensor"]
"""What an output means, which decides how its error is measured. `map`: one value or one class per pixel; `detections`:
boxes with scores in one tensor; `boxes`: boxes alone; `scalar`: one number per sample; `sequence`: one token per step;
`tensor`: anything else."""

CostUnit = Literal["share", "dB", "nats", "pixels", "spread", ""]
"""Unit of a figure. `share`: of 1; `spread`: the standard deviation that the reference itself has; empty: a count, a
coefficient, or the output's own unit."""

INTERVAL: Final = "95 % interval"


class CostFigure(Value, frozen=True):
    """One figure of an output's cost, with its interval where there is one and its bound where it is judged."""

    name: str
    value: float
    low: float | None
    """Lower end of the 95 % interval; None: there is none."""
    high: float | None
    unit: CostUnit
    bound: float | None = None
    """None: reported, not judged."""
    passed: bool | None = None
    """Whether the interval reaches the bound, or without an interval the value. None: not judged."""
    reason: str = ""
    """Why the bound has its value; empty without one."""
    lower_is_better: bool = False
    """Whether the bound is an upper one."""

    def __post_init__(self) -> None:
        numbers = [number for number in (self.value, self.low, self.high, self.bound) if number is not None]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{self.name} must be finite: a record in JSON has no infinity")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{self.name} must have both ends of its interval, or none")
        if (self.bound is None) != (self.passed is None):
            raise ValueError(f"{self.name} must have a verdict exactly where it has a bound")

    @property
    def text(self) -> str:
        """The value with its unit and interval: `81.2 % (95 % interval 57.0 % to 93.4 %)`."""
        text = self._format_number(self.value)
        if self.low is None or self.high is None:
            return text
        return f"{text} ({INTERVAL} {self._format_number(self.low)} to {self._format_number(self.high)})"

    @property
    def bound_text(self) -> str:
        """The bound with its side and unit: `≥ 70 %`; empty where the figure is not judged."""
        if self.bound is None:
            return ""
        return f"{'≤' if self.lower_is_better else '≥'} {self._format_number(self.bound)}"

    @property
    def failure(self) -> str:
        """`top-1 agreement is 12.5 % (…), below the bound of 70 %: why`; empty unless it failed."""
        if self.passed is not False or self.bound is None:
            return ""
        side = "above" if self.lower_is_better else "below"
        return f"{self.name} is {self.text}, {side} the bound of {self._format_number(self.bound)}: {self.reason}"

    def _format_number(self, number: float) -> str:
        if abs(number) == sys.float_info.max:  # stands for infinity
            return f"{'-' if number < 0 else ''}∞ {self.unit}".rstrip()
        if self.unit == "share":
            return f"{number * 100:.3g} %"
        if self.unit == "spread":
            return f"{number:.3g} of the spread"
        return f"{number:.3g} {self.unit}".rstrip()


class OutputCost(Value, frozen=True):
    """What a candidate's precision costs at one output, in the terms of its kind."""

    name: str
    kind: OutputKind
    figures: tuple[CostFigure, ...]

    @property
    def violations(self) -> tuple[str, ...]:
        """One sentence per failed figure: the output, the figure with its interval, the bound and its reason."""
        where = f"output {self.name!r} ({self.kind})"
        return tuple(f"{where}: {figure.failure}" for figure in self.figures if figure.failure)

    @property
    def passed(self) -> bool:
        """Whether no figure failed; also where none was judged."""
        return not self.violations


class TopOneDrop(Value, frozen=True):
    """Top-1 accuracy of reference and candidate on the same labelled samples, and the drop with its 95 % interval.

    All are shares of 1; a drop is positive where the candidate is worse.
    """

    reference: float
    candidate: float
    drop: float
    low: float
    high: float
    lost: int
    """Samples that only the reference classifies correctly."""
    gained: int
    """Samples that only the candidate classifies correctly."""
    count: int
