"""Batch sweeps: the batch size beyond which throughput hardly grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deploykit.core.values import Measurement

NEAR_BEST: Final = 0.95
"""Share of the best throughput: the loss is smaller than the variation from one run to the next."""


def find_knee(measurements: Sequence[Measurement]) -> int | None:
    """The smallest batch with 95 % of the best throughput. None for a single size, and for an open-loop load, whose
    rate determines the throughput.
    """
    latencies = [measurement.latency for measurement in measurements if measurement.rate_per_s is None]
    if len({latency.batch for latency in latencies}) < 2:
        return None
    best = max(latency.throughput_per_s for latency in latencies)
    return min(latency.batch for latency in latencies if latency.throughput_per_s >= NEAR_BEST * best)
