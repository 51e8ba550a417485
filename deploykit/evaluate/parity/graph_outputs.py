"""Outputs that a graph or an engine computed, and its name."""

from __future__ import annotations

from typing import NamedTuple

from deploykit.core.values import Arrays


class GraphOutputs(NamedTuple):
    """What computed the outputs, and the outputs by name, sample axis first."""

    subject: str
    """Such as `the graph cast to FP16, as written` or `openvino 2026.4.1`."""
    outputs: Arrays
