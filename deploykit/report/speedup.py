"""An engine beside FP32 on the same backend, in words: how many times as fast, and what share of the size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from deploykit.core.values import Fp32Comparison, Manifest
from deploykit.report.formatting import format_ms, format_precision

if TYPE_CHECKING:
    from deploykit.report.bundle_document import EngineRow


def format_factor(factor: float) -> str:
    """`1.9×`, `0.26×`, `12×`."""
    decimals = 2 if factor < 1 else 1 if factor < 10 else 0
    return f"{factor:.{decimals}f}×"


def describe_speedup(beside: Fp32Comparison, backend: str) -> str:
    """`1.9× as fast as FP32 on openvino (p50 4.70 ms against 8.90 ms; 1.85 to 1.95 over 8 rounds), 0.26× the size`;
    where the interval holds 1, no factor is claimed.
    """
    unclear = beside.speedup.low <= 1 <= beside.speedup.high
    factor = "about as fast" if unclear else f"{format_factor(beside.speedup.estimate)} as fast"
    return (
        f"{factor} as FP32 on {backend} "
        f"(p50 {format_ms(beside.engine_p50_ms)} against {format_ms(beside.p50_ms)}; {format_spread(beside)}), "
        f"{format_factor(beside.size_ratio)} the size"
    )


def format_spread(beside: Fp32Comparison) -> str:
    """`1.85 to 1.95 over 8 rounds`"""
    return f"{beside.speedup.low:.2f} to {beside.speedup.high:.2f} over {beside.rounds} rounds"


def describe_slowdown(beside: Fp32Comparison, precision: str, backend: str) -> str | None:
    """That the engine is slower than FP32; None if it is not, or if the interval does not tell."""
    if not beside.slower:
        return None
    return (
        f"{format_precision(precision)} is slower than FP32 on {backend} on this machine: p50 "
        f"{format_ms(beside.engine_p50_ms)} against {format_ms(beside.p50_ms)}"
    )


def list_slowdowns(manifest: Manifest) -> Iterator[str]:
    """A sentence for each engine of a bundle that is slower than FP32 on its backend."""
    engines = [(manifest.engine.backend, manifest.fp32_latency)]
    engines += [(other.engine.backend, other.fp32_latency) for other in manifest.extra_engines]
    for backend, beside in engines:
        if beside is not None and (slowdown := describe_slowdown(beside, manifest.precision, backend)) is not None:
            yield slowdown


def list_slower_than_fp16(rows: Sequence[EngineRow]) -> Iterator[str]:
    """A sentence for each INT8 engine whose p50 lies above that of the same network's FP16 engine on the same backend,
    both at the same batch size. They were measured in different runs.
    """
    halves = {
        (row.model, row.backend, row.latency.batch): row for row in rows if row.latency and row.precision == "fp16"
    }
    for row in rows:
        if row.latency is None or not row.precision.startswith("int8"):
            continue
        half = halves.get((row.model, row.backend, row.latency.batch))
        if half is not None and half.latency is not None and row.latency.p50_ms > half.latency.p50_ms:
            yield (
                f"row {row.number}: {format_precision(row.precision)} is slower than FP16 (row {half.number}) on "
                f"{row.backend}: p50 {format_ms(row.latency.p50_ms)} against {format_ms(half.latency.p50_ms)}"
            )
