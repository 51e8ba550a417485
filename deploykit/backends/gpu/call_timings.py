"""The parts of one call on a GPU."""

from __future__ import annotations

from typing import NamedTuple


class CallTimings(NamedTuple):
    """Timings of one call by CUDA events on its stream, without the host's work before and after."""

    h2d_ms: float
    """Copy of the inputs from page-locked to GPU memory."""
    compute_ms: float
    d2h_ms: float
    """Copy of the outputs back to page-locked memory."""
    enqueue_ms: float
    """Host time of the launch; where it exceeds compute_ms, the processor is the bottleneck."""
