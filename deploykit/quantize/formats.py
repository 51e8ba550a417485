"""The 16-bit floating-point types to which a graph can be cast, and what they can hold."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FormatName: TypeAlias = Literal["fp16", "bf16"]


class Format(NamedTuple):
    """A floating-point type with fewer bits than float32."""

    dtype: ir.DataType

    @property
    def name(self) -> str:
        """ONNX's name of the type: float16."""
        return self.dtype.name.lower()

    @property
    def largest(self) -> float:
        """The largest finite number: 65504, or 3.39e38."""
        return float(self.dtype.max)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with all bits of precision: 6.1e-5, or 1.18e-38; below it bits are lost."""
        return float(self.dtype.tiny)

    @property
    def smallest(self) -> float:
        """The smallest positive number, a subnormal: 6e-8, or 9.2e-41; half of it and less becomes zero."""
        return self.smallest_normal * self.rounding_tolerance

    @property
    def narrows_exponent(self) -> bool:
        """Whether the type's range is smaller than float32's: bfloat16 has the same exponents."""
        return self.smallest_normal > float(ir.DataType.FLOAT.tiny)

    @property
    def rounding_tolerance(self) -> float:
        """Relative error that rounding a constant may cost: the distance from 1 to the next number, 2⁻¹⁰ or 2⁻⁷.

        Rounding normal numbers costs at most half of it. More means that the numbers are so small that they become
        subnormals of the type, or zero.
        """
        return float(self.dtype.eps)

    def exceeded_by(self, value: float) -> bool:
        """Whether `value` would become infinite; NaN counts as exceeding."""
        return not abs(value) <= self.largest

    def round_array(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` rounded to nearest, as an array of this type."""
        return values.astype(self.dtype.numpy())

    def explain_unfit_weight(self, weight: NDArray[Any]) -> str | None:
        """Why a constant cannot be rounded; None: it can.

        The error is the Euclidean norm over the tensor, relative to that of its values: what matters in a sum of many
        products.
        """
        if overflow := self._explain_overflow(weight):
            return overflow
        exact = weight.astype(np.float64)
        norm = float(np.linalg.norm(exact))
        error = float(np.linalg.norm(exact - self._round_trip(weight)))
        return self._explain_underflow(error / norm, weight) if error > self.rounding_tolerance * norm else None

    def explain_unfit_scale(self, scale: NDArray[Any]) -> str | None:
        """The same for the scales of Q/DQ, each by itself: one scales a whole channel, and none may become zero."""
        if overflow := self._explain_overflow(scale):
            return overflow
        exact = scale.astype(np.float64)
        errors = np.divide(
            np.abs(exact - self._round_trip(scale)), np.abs(exact), out=np.zeros_like(exact), where=exact != 0
        )
        worst = float(np.max(errors, initial=0.0))
        return self._explain_underflow(worst, scale) if worst > self.rounding_tolerance else None

    def _round_trip(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self.round_array(values).astype(np.float64)

    def _explain_overflow(self, values: NDArray[Any]) -> str | None:
        largest = float(np.max(np.abs(values), initial=0.0))
        return f"holds {largest:.4g}, beyond ±{self.largest:g}" if self.exceeded_by(largest) else None

    def _explain_underflow(self, error: float, values: NDArray[Any]) -> str:
        largest = float(np.max(np.abs(values)))
        return f"is too small for {self.name}: rounding it would change it by {error:.2%} (largest {largest:.3g})"


HALF: Final = Format(ir.DataType.FLOAT16)
FORMATS: Final[dict[FormatName, Format]] = {"fp16": HALF, "bf16": Format(ir.DataType.BFLOAT16)}
