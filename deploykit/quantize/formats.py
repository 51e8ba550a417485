"""The 16-bit floating-point types that a graph can be given, and what they can hold."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Name: TypeAlias = Literal["fp16", "bf16"]


class Format(NamedTuple):
    """A type with fewer bits than float32. Its figures come from the type itself."""

    dtype: ir.DataType

    @property
    def name(self) -> str:
        """As ONNX writes it: float16."""
        return self.dtype.name.lower()

    @property
    def largest(self) -> float:
        """The largest finite number: 65504, or 3.39e38."""
        return float(self.dtype.max)

    @property
    def rounding(self) -> float:
        """Relative error that rounding a constant may cost: the distance from 1 to the next number, 2⁻¹⁰ or 2⁻⁷.

        Rounding normal numbers costs at most half of that; more means that they are so small that the type only holds
        them as subnormals, or not at all.
        """
        return float(self.dtype.eps)

    def exceeded_by(self, value: float) -> bool:
        """Whether `value` would become infinite; NaN counts as beyond."""
        return not abs(value) <= self.largest

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """The nearest numbers of this type, as an array of it."""
        return values.astype(self.dtype.numpy())

    def unfit(self, weight: NDArray[Any]) -> str | None:
        """Why a constant cannot be rounded; None: it can. Its error is measured over the tensor (Euclidean): what a
        product with many weights feels.
        """
        if beyond := self._beyond(weight):
            return beyond
        exact = weight.astype(np.float64)
        norm = float(np.linalg.norm(exact))
        error = float(np.linalg.norm(exact - self._held(weight)))
        return self._too_small(error / norm, weight) if error > self.rounding * norm else None

    def unfit_scale(self, scale: NDArray[Any]) -> str | None:
        """The same for a scale of Q/DQ, number by number: each is alone with its channel, and none may become zero."""
        if beyond := self._beyond(scale):
            return beyond
        exact = scale.astype(np.float64)
        errors = np.divide(np.abs(exact - self._held(scale)), np.abs(exact), out=np.zeros_like(exact), where=exact != 0)
        worst = float(np.max(errors, initial=0.0))
        return self._too_small(worst, scale) if worst > self.rounding else None

    def _held(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self.rounded(values).astype(np.float64)

    def _beyond(self, values: NDArray[Any]) -> str | None:
        largest = float(np.max(np.abs(values), initial=0.0))
        return f"holds {largest:.4g}, beyond ±{self.largest:g}" if self.exceeded_by(largest) else None

    def _too_small(self, error: float, values: NDArray[Any]) -> str:
        largest = float(np.max(np.abs(values)))
        return f"is too small for {self.name}: rounding it would change it by {error:.2%} (largest {largest:.3g})"


HALF: Final = Format(ir.DataType.FLOAT16)
FORMATS: Final[dict[Name, Format]] = {"fp16": HALF, "bf16": Format(ir.DataType.BFLOAT16)}
