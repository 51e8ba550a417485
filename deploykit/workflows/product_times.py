"""The time of what an INT8 network leaves in floating point, beside its share of the work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from deploykit.core.values import Backend, Engine, EngineLayer, PrecisionReceipt

CALLS: Final = 20
"""Profiled calls."""


def time_floating_products(
    backend: Backend, engine: Engine, folder: Path, receipt: PrecisionReceipt
) -> PrecisionReceipt:
    """The receipt with the time of every product that an INT8 graph does not execute in INT8, profiled now. Unchanged
    where there is none, or where the backend does not time its layers.
    """
    floating = {layer.node for layer in receipt.left_floating}
    if not floating:
        return receipt
    times_ms = share_times(backend.read_layers(engine, folder, CALLS), floating)
    layers = (msgspec.structs.replace(layer, time_ms=times_ms.get(layer.node)) for layer in receipt.layers)
    return msgspec.structs.replace(receipt, layers=tuple(layers))


def share_times(layers: Iterable[EngineLayer], products: set[str]) -> dict[str, float]:
    """Milliseconds per call by product. The time of a kernel that computes several of them is divided equally."""
    times_ms: dict[str, float] = {}
    for layer in layers:
        computed = [node for node in layer.nodes if node in products]
        if layer.time_us is None:
            continue
        for node in computed:
            times_ms[node] = times_ms.get(node, 0.0) + layer.time_us / 1e3 / len(computed)
    return times_ms
