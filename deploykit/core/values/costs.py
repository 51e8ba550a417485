"""What a precision costs, in the terms of each kind of output."""

from __future__ import annotations

from typing import Literal

from deploykit.core.values.base import Value

OutputKind = Literal["classes", "map", "detections", "boxes", "embedding", "scalar", "sequence", "tensor"]


class CostFigure(Value, frozen=True):
    """One figure."""

    name: str
    value: float
    low: float | None
    high: float | None
    unit: Literal["share", "dB", "nats", "pixels", "spread", ""]
    bound: float | None
    passed: bool | None
    reason: str


class OutputCost(Value, frozen=True):
    """The cost at one output."""

    name: str
    kind: OutputKind
    figures: tuple[CostFigure, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Failed figures."""
        return tuple(f"output {self.name!r}: {figure.name}" for figure in self.figures if figure.passed is False)
