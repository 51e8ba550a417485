"""Shapes as text, without NumPy: what prints them must start quickly."""

from __future__ import annotations

from collections.abc import Sequence


def format_shape(shape: Sequence[int | str]) -> str:
    """Format a shape as `batch×3×32×32`."""
    return "×".join(map(str, shape)) or "a scalar"
