"""The few figures that a reader wants first."""

from __future__ import annotations

from collections.abc import Iterator

from deploykit.core.values import Accuracy, Latency, Parity, Value
from deploykit.report.bundle_document import Reported, engine_bytes, worst_snr
from deploykit.report.terminal import size
from deploykit.report.words import decibels, milliseconds, number, percent


class KeyFigure(Value, frozen=True):
    """A figure, what it is of, and what must stand beside it."""

    name: str
    figure: str
    beside: str


def key_figures(bundle: Reported) -> tuple[KeyFigure, ...]:
    """Faithfulness, accuracy, speed, size, precision; those that there are."""
    return tuple(_all(bundle))


def _all(bundle: Reported) -> Iterator[KeyFigure]:
    manifest = bundle.manifest
    yield from _parity(manifest.parity)
    if manifest.parity.accuracy is not None:
        yield _accuracy(manifest.parity.accuracy, manifest.parity.oracle)
    if manifest.latency is not None:
        yield _latency(manifest.latency, manifest.engine.backend)
    yield KeyFigure("size", size(engine_bytes(manifest, manifest.engine)), manifest.engine.file.path)
    arithmetic = "int8" if manifest.precision.startswith("int8") else manifest.precision
    shares = {str(name): share for name, share in manifest.receipt.shares.items()}
    yield KeyFigure(
        f"computed in {arithmetic.upper()}", percent(shares.get(arithmetic, 0.0)), "of multiply-accumulates, as it ran"
    )


def _parity(parity: Parity) -> Iterator[KeyFigure]:
    yield KeyFigure("SNR", decibels(worst_snr(parity.outputs)), f"against {parity.oracle}")
    agreements = [output.top1_agreement for output in parity.outputs if output.top1_agreement is not None]
    if agreements:
        judged = "" if parity.tolerance.min_top1_agreement is not None else ", not judged"
        yield KeyFigure("top-1 agreement", percent(min(agreements)), f"on {parity.data.count} samples{judged}")


def _accuracy(found: Accuracy, oracle: str) -> KeyFigure:
    change = -100 * found.drop
    points = f"{change:+.2f}".replace("-", "−")
    said = f"as {oracle}" if abs(change) < 5e-3 else f"{points} points against {oracle}"
    return KeyFigure("top-1 accuracy", percent(found.candidate, 2), f"{said}, {found.count} labelled samples")


def _latency(found: Latency, backend: str) -> KeyFigure:
    noise = ", noisy" if found.noisy else ""
    return KeyFigure(
        "p50 latency",
        milliseconds(found.p50_ms),
        f"batch {found.batch} in {backend}, {number(found.throughput_per_s)} samples/s{noise}",
    )
