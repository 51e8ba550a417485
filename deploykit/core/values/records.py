"""Records: measurements of a bundle that its report shows in addition to the manifest."""

from __future__ import annotations

from deploykit.core.values.base import Value
from deploykit.core.values.diagnosis import LayerErrors, SampleDifferences, Stages
from deploykit.core.values.latencies import Bench, Measurement


class Records(Value, frozen=True):
    """All records in a bundle; None or empty: not measured."""

    measurement: Measurement | None = None
    """The manifest's latency, with the duration of every call."""
    stages: Stages | None = None
    layers: LayerErrors | None = None
    samples: SampleDifferences | None = None
    benches: tuple[Bench, ...] = ()
    """The latest benchmark per runtime and engine."""
