"""Figures as words, the same on every page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from deploykit.core.values import DataRecord, Measure, Preprocessing, TensorSpec
from deploykit.report.terminal import size

ABSENT: Final = "–"


def decibels(value: float | None) -> str:
    """`50.6 dB`; an output without any noise is identical."""
    return "identical" if value is None else f"{value:.1f} dB" if value > -1e3 else "not a number"


def percent(share: float | None, digits: int = 1) -> str:
    """`99.5%` of a share of 1."""
    return ABSENT if share is None else f"{100 * share:.{digits}f}%"


def milliseconds(value: float | None) -> str:
    """Three digits that mean something: `0.412 ms`, `4.12 ms`, `41.2 ms`, `412 ms`."""
    return ABSENT if value is None else f"{value:.{digits(value)}f} ms"


def number(value: float | None) -> str:
    """Three digits that mean something, without a unit."""
    return ABSENT if value is None else f"{value:.{digits(value)}f}"


def digits(value: float) -> int:
    """Behind the point."""
    return 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0


def power(value: float | None) -> str:
    """`3.1e-03`"""
    return ABSENT if value is None else f"{value:.1e}"


def precise(precision: str) -> str:
    """`INT8`, `INT8 + FP16`"""
    return precision.upper().replace("-", " + ")


def samples(data: DataRecord) -> str:
    """`16 samples of photos (evaluation)`"""
    kind = "" if data.real else ", synthetic"
    return f"{data.count} {'sample' if data.count == 1 else 'samples'} of {data.name} ({data.split}{kind})"


def shape(spec: TensorSpec) -> str:
    """`N×3×224×224`"""
    return "×".join("N" if extent == "batch" else str(extent) for extent in spec.shape)


def budgeted(measure: Measure, value: float) -> str:
    """`0.50 points`, `24.1 dB`"""
    return f"{value:.2f} points" if measure == "top-1 drop" else f"{value:.1f} dB"


def prepared(spec: Preprocessing | None) -> str:
    """What happens to an image before the network sees it."""
    if spec is None:
        return "none: inputs are tensors as they are"
    means, deviations = (", ".join(f"{value:g}" for value in triple) for triple in (spec.mean, spec.std))
    return (
        f"shorter side to {spec.resize} pixels, centre {spec.height}×{spec.width}, "
        f"(pixel · {spec.scale:.6g} − ({means})) / ({deviations}), {spec.channels.upper()}, {spec.layout}"
    )


WORDS: Final[dict[str, Callable[..., str]]] = {
    "db": decibels, "percent": percent, "ms": milliseconds, "number": number, "power": power, "precise": precise,
    "samples": samples, "shape": shape, "budgeted": budgeted, "prepared": prepared, "size": size,
}  # fmt: skip
"""By the names that templates call them."""
