"""Key figures of a bundle."""

from __future__ import annotations

from collections.abc import Iterator

from deploykit.core.values import Accuracy, Fp32Comparison, Latency, Parity, Value
from deploykit.report.bundle_document import ReportedBundle, engine_bytes
from deploykit.report.formatting import format_bytes, format_db, format_ms, format_number, format_percent
from deploykit.report.speedup import format_factor, format_spread


class KeyFigure(Value, frozen=True):
    """A figure with its name and its conditions."""

    name: str
    figure: str
    conditions: str


def key_figures(bundle: ReportedBundle) -> tuple[KeyFigure, ...]:
    """Speed-up and size against FP32, parity, accuracy, latency, size and executed precision, where known."""
    return tuple(_list_figures(bundle))


def _list_figures(bundle: ReportedBundle) -> Iterator[KeyFigure]:
    manifest = bundle.manifest
    if manifest.fp32_latency is not None:
        yield from _speedup_figures(manifest.fp32_latency, manifest.engine.backend)
    yield from _parity_figures(manifest.parity)
    if manifest.parity.accuracy is not None:
        yield _accuracy_figure(manifest.parity.accuracy, manifest.parity.oracle)
    if manifest.latency is not None:
        yield _latency_figure(manifest.latency, manifest.engine.backend)
    yield KeyFigure("size", format_bytes(engine_bytes(manifest, manifest.engine)), manifest.engine.file.path)
    arithmetic = "int8" if manifest.precision.startswith("int8") else manifest.precision
    shares = {str(name): share for name, share in manifest.receipt.shares.items()}
    yield KeyFigure(
        f"executed in {arithmetic.upper()}", format_percent(shares.get(arithmetic, 0.0)), "of multiply-accumulates"
    )


def _speedup_figures(beside: Fp32Comparison, backend: str) -> Iterator[KeyFigure]:
    """The first tiles: what the precision gains."""
    against = (
        f"{format_ms(beside.engine_p50_ms)} against {format_ms(beside.p50_ms)} in {backend}, {format_spread(beside)}"
    )
    warning = "slower than FP32: " if beside.slower else ""
    yield KeyFigure("speed-up over FP32", format_factor(beside.speedup.estimate), f"{warning}p50 {against}")
    yield KeyFigure("size against FP32", format_factor(beside.size_ratio), f"FP32: {format_bytes(beside.bytes)}")


def _parity_figures(parity: Parity) -> Iterator[KeyFigure]:
    yield KeyFigure("SNR", format_db(parity.worst_snr_db), f"against {parity.oracle}")
    agreements = [output.top1_agreement for output in parity.outputs if output.top1_agreement is not None]
    if agreements:
        judged = "" if parity.tolerance.min_top1_agreement is not None else ", not judged"
        yield KeyFigure("top-1 agreement", format_percent(min(agreements)), f"on {parity.data.count} samples{judged}")


def _accuracy_figure(accuracy: Accuracy, oracle: str) -> KeyFigure:
    change = -100 * accuracy.drop
    points = f"{change:+.2f}".replace("-", "−")
    difference = f"as {oracle}" if abs(change) < 5e-3 else f"{points} points against {oracle}"
    return KeyFigure(
        "top-1 accuracy", format_percent(accuracy.candidate, 2), f"{difference}, {accuracy.count} labelled samples"
    )


def _latency_figure(latency: Latency, backend: str) -> KeyFigure:
    noise = ", noisy" if latency.noisy else ""
    return KeyFigure(
        "p50 latency",
        format_ms(latency.p50_ms),
        f"batch {latency.batch} in {backend}, {format_number(latency.throughput_per_s)} samples/s{noise}",
    )
