"""Whether a constant of a converted graph is the FP32 graph's, rounded.

Half a step of the type, or of the INT8 scale, is explained by rounding. Exporting a network again on another processor
may change a folded weight by a few float32 steps: `NOISE` of the largest value allows that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.graph_edit import read_constant
from deploykit.quantize.qdq import HALF_COARSE, STEPS

NOISE: Final = 2.0**-18
"""Allowed difference besides rounding, relative to the largest value: 64 float32 steps, 1/128 of a float16 step."""

BLOCK: Final = 2**22
"""Elements that are compared at once: half a gigabyte of weights needs no further gigabytes."""

STEP_OF: Final = {
    "float16": (2.0**-10, 2.0**-24),
    "bfloat16": (2.0**-7, 2.0**-133),
    "float32": (2.0**-23, 2.0**-149),
    "float64": (2.0**-52, 0.0),
}
"""Per type the step between 1 and the next number, and the smallest step."""


def explain_difference(
    expected: NDArray[Any], given: NDArray[Any], dtype: np.dtype[Any] | None = None, magnitude: float | None = None
) -> str | None:
    """Why `given` is not `expected`, rounded to its own type or to `dtype`, as the end of a sentence; None: it is.

    `magnitude` is the largest term where `expected` is a sum: float32 noise is relative to that.
    """
    if given.shape != expected.shape:
        return f": it has shape {given.shape}, not {expected.shape}"
    to = given.dtype if dtype is None else dtype
    if not {to.name, expected.dtype.name} <= STEP_OF.keys():
        return None if given.dtype == expected.dtype and np.array_equal(given, expected) else ""
    largest = float(np.abs(expected).max(initial=0.0))
    slack = NOISE * (largest if magnitude is None else magnitude)
    blocks = _iterate_blocks(expected, given)
    worst = max((_largest_excess(exact, actual, to, slack) for exact, actual in blocks), default=0.0)
    if worst == 0:
        return None
    rounded = "" if to == np.float32 else f", rounded to {to.name}"
    return f"{rounded}: the difference is up to {worst:.3g}, of values up to {largest:.3g}"


def _largest_excess(expected: NDArray[Any], given: NDArray[Any], dtype: np.dtype[Any], slack: float) -> float:
    """The largest difference among those that rounding to `dtype` does not explain; 0: there is none."""
    with np.errstate(over="ignore"):
        rounded = expected.astype(dtype)
    same = (rounded == given.astype(dtype)) & (np.isfinite(rounded) | ~np.isfinite(expected))
    different = ~(same | (np.isnan(expected) & np.isnan(given)))
    exact, actual = expected[different].astype(np.float64), given[different].astype(np.float64)
    error = np.nan_to_num(np.abs(actual - exact), nan=np.inf)
    return float(np.max(error[error > half_step(exact, dtype) + slack], initial=0.0))


def half_step(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """What rounding each value to the type may change."""
    step, smallest = STEP_OF[dtype.name]
    exponent = np.frexp(np.nan_to_num(values))[1]  # |value| in [2^(exponent − 1), 2^exponent)
    return np.asarray(np.maximum(np.ldexp(step, exponent - 1), smallest) / 2)


def explain_codes(
    dequantize: ir.Node, weight: NDArray[np.float32], scales: NDArray[np.float32], axis: int | None, half: bool
) -> str | None:
    """Why what `dequantize` reads is not `weight`, quantized with `scales` along `axis`; None: it is.

    `scales`: (out_channels,), or () where `axis` is None; with `half` they were rounded to float16.
    """
    codes, given, zero = (read_constant(value) for value in (*dequantize.inputs, None)[:3])
    if codes is None or given is None or codes.dtype != np.int8 or (zero is not None and zero.any()):
        return "its weights are not symmetric int8 codes"
    if codes.shape != weight.shape or given.shape != scales.shape:
        return f"its weights have shape {codes.shape} and {given.size} scales, not {weight.shape} and {scales.size}"
    if axis is not None and dequantize.attributes.get_int("axis", 1) % weight.ndim != axis:
        return f"the scales of its weights count axis {dequantize.attributes.get_int('axis', 1)}, not {axis}"
    wrong = ~equal_scales(given, scales, half)
    if wrong.any():
        channel = int(np.argmax(wrong))
        ratio = float(given.flat[channel]) / float(scales.flat[channel])
        return (
            f"{np.count_nonzero(wrong)} of the {wrong.size} scales of its weights are wrong: that of channel {channel} "
            f"is {ratio:.3g} times as wide as its weights need"
        )
    steps = np.broadcast_to(_spread(given, weight.ndim, axis), weight.shape)
    channels_first = (np.moveaxis(array, axis or 0, 0) for array in (codes, weight, steps))
    far, most = 0, 0.0
    for integers, values, step in _iterate_blocks(*channels_first):
        error = np.abs(integers - values / step)  # in steps
        far += int(np.count_nonzero(~(error <= 0.5 + NOISE * STEPS)))
        most = max(most, float(error.max(initial=0.0)))
    if far == 0:
        return None
    return (
        f"its weights are not the FP32 graph's, rounded: {far / codes.size:.1%} differ by more than half a step, by up "
        f"to {most:.1f} steps"
    )


def equal_scales(given: NDArray[Any], expected: NDArray[Any], half: bool) -> NDArray[np.bool_]:
    """Which scales are the expected ones, within float32 noise; with `half`, within a step of float16."""
    exact, actual = expected.astype(np.float64), given.astype(np.float64)
    rounded = half and exact.max() >= HALF_COARSE  # smaller ones stay exact
    step = 2 * half_step(exact, np.dtype(np.float16)) if rounded else 0.0
    return np.asarray(np.abs(actual - exact) <= step + NOISE * exact)


def dequantize_codes(dequantize: ir.Node) -> NDArray[np.float32]:
    """The weights that `explain_codes` accepted, in float32."""
    codes, scales = (read_constant(value) for value in dequantize.inputs[:2])
    assert codes is not None
    assert scales is not None
    return codes * _spread(scales, codes.ndim, dequantize.attributes.get_int("axis", 1))


def _spread(scales: NDArray[Any], axes: int, axis: int | None) -> NDArray[np.float32]:
    """Scales, (out_channels,), as float32 along one of several axes; a single one for all of them."""
    return scales.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(axes)])


def _iterate_blocks(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Arrays with the same first axis, in blocks along it."""
    arrays = tuple(np.atleast_1d(array) for array in arrays)
    rows = max(1, BLOCK * len(arrays[0]) // max(arrays[0].size, 1))
    for start in range(0, len(arrays[0]), rows):
        yield tuple(array[start : start + rows] for array in arrays)
