"""Small files in which Linux reports a machine's state. A missing or unreadable file is not an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def read_text(path: Path) -> str | None:
    """Read a file without surrounding white space and zero bytes; None where it cannot be read.

    Reading a sensor that is switched off fails with an error.
    """
    try:
        return path.read_text(errors="replace").strip(" \t\n\0") or None
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """Read a number; None where there is none."""
    text = read_text(path)
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def value_range(values: Iterable[float | None], unit: float) -> tuple[float, float] | None:
    """The lowest and highest of the known values, divided by `unit`; None where none is known."""
    known = [value / unit for value in values if value is not None]
    return (min(known), max(known)) if known else None


def zone_temperatures(root: Path, *words: str) -> Iterator[float | None]:
    """Temperatures in thousandths of a degree of the thermal zones whose type contains one of the words."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind = (read_text(zone / "type") or "").lower()
        if any(word in kind for word in words):
            yield read_number(zone / "temp")
