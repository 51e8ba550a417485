"""What Linux tells of a machine in small files: each is read or is not there, and neither is an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def word(path: Path) -> str | None:
    """What a file says, without its last line break or zero byte; None where it cannot be read.

    Sensors that are switched off answer with an error instead of a value.
    """
    try:
        return path.read_text(errors="replace").strip(" \t\n\0") or None
    except OSError:
        return None


def number(path: Path) -> float | None:
    """The number that a file holds."""
    text = word(path)
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def span(values: Iterable[float | None], unit: float) -> tuple[float, float] | None:
    """The lowest and the highest of the values that are there, each divided by `unit`; None where none is."""
    there = [value / unit for value in values if value is not None]
    return (min(there), max(there)) if there else None


def zones(root: Path, *words: str) -> Iterator[float | None]:
    """Temperatures in thousandths of a degree, of the thermal zones whose type has one of these words in it."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind = (word(zone / "type") or "").lower()
        if any(each in kind for each in words):
            yield number(zone / "temp")
