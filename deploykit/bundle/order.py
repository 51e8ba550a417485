"""The order in which Python tries the engines of a bundle: the primary one, then the fastest faithful ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from deploykit.bundle.manifest import Manifest
from deploykit.core.values import Engine, Latency, Parity


class OrderedEngine(NamedTuple):
    """An engine, and the check of its outputs that failed at export, as a sentence; None: none failed."""

    engine: Engine
    failure: str | None


def order_engines(manifest: Manifest) -> tuple[OrderedEngine, ...]:
    """The primary engine unless its outputs failed parity; extra engines that passed, fastest first by their p50, then
    those that were not measured or not run, as recorded; last those that failed, in the same order.
    """
    listed = tuple(_list_engines(manifest))
    order = sorted(
        range(len(listed)), key=lambda place: (bool(listed[place].failures), place > 0, *_speed(listed[place]))
    )
    return tuple(OrderedEngine(listed[place].engine, next(iter(listed[place].failures), None)) for place in order)


class _Recorded(NamedTuple):
    engine: Engine
    parity: Parity | None
    latency: Latency | None

    @property
    def failures(self) -> tuple[str, ...]:
        # Parity alone: an engine that computes in FP32 what the graph has in INT8 is slow, which its p50 tells.
        return self.parity.failures if self.parity is not None else ()


def _list_engines(manifest: Manifest) -> Iterator[_Recorded]:
    yield _Recorded(manifest.engine, manifest.parity, manifest.latency)
    for other in manifest.extra_engines:
        yield _Recorded(other.engine, other.parity, other.latency)


def _speed(recorded: _Recorded) -> tuple[bool, float]:
    """Sorts measured engines by their p50, before all others."""
    return recorded.latency is None, recorded.latency.p50_ms if recorded.latency is not None else 0.0
