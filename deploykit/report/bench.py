"""What was measured, as text for a terminal."""

from __future__ import annotations

from typing import Final

from rich.console import Group
from rich.text import Text

from deploykit.report import terminal
from deploykit.values import Bench, Runtime

THROUGH: Final[dict[Runtime, str]] = {"python": "Python", "cpp": "the C++ library"}


def account(found: Bench) -> Group:
    """Which engine through what, its latency, and what it took until the first answer was there."""
    figures, start = found.measured[0].latency, found.start_up
    text = Text(f"{found.model} {found.precision}", "bold")
    text.append(f"  {found.library} through {THROUGH[found.runtime]}, {found.file}", style="none")
    settled = f" after {figures.warmup_iterations} until it had settled"
    warmup = settled if figures.settled else ", warm-up never settled"
    lines = (
        f"batch {figures.batch}, {figures.iterations} calls{warmup}",
        f"  p50 {figures.p50_ms:.2f} ms, p90 {figures.p90_ms:.2f} ms, p95 {figures.p95_ms:.2f} ms, "
        f"p99 {figures.p99_ms:.2f} ms",
        f"  mean {figures.mean_ms:.2f} ± {figures.deviation_ms:.2f} ms, {figures.throughput_per_s:.1f} images/s",
        f"  opened in {start.open_ms:.0f} ms, loaded in {start.load_ms:.0f} ms, first call {start.first_ms:.2f} ms, "
        f"peak memory {terminal.size(found.peak_memory_bytes)}",
    )
    for line in lines:
        text.append(f"\n{line}", style="none")
    notes = list(found.statements)
    if not figures.settled:
        notes.insert(0, "the machine was busy, and these figures are of that moment")
    return Group(text, *map(terminal.note, notes))
