"""Records: what was measured of a bundle beyond its manifest, kept beside it for its report."""

from __future__ import annotations

from deploykit.core.values.depth import LayerErrors, SampleAccount, Stages
from deploykit.core.values.latencies import Bench, Measured
from deploykit.core.values.words import Value


class Records(Value, frozen=True):
    """Everything of the kind that a bundle holds; None or empty: never made."""

    measured: Measured | None = None
    """The latency of the manifest, with every duration that it was drawn from."""
    stages: Stages | None = None
    layers: LayerErrors | None = None
    samples: SampleAccount | None = None
    benches: tuple[Bench, ...] = ()
    """One per runtime and engine, the latest."""
