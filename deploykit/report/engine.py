"""A compiled engine's layers as text for a terminal. Names are folded, not cut: they are what a profiler says too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploykit.core.values import EngineAccount, EngineLayer
from deploykit.report import extra_engines, terminal

TELLING: Final = re.compile(
    r"(?:sm\d+|volta|turing|ampere|hopper|[a-z]?cudnn|h\d+cudnn|tilesize[\dx]+|int8x?\d*|(?:(?:tf|bf|f|i)\d+){2})"
)
"""The words of a kernel's name that tell kernels apart: GPU, types, tile. What it computes is in the other columns."""

TACTIC: Final = 20
"""Characters of a tactic's name that has none of these words."""


def accounts(found: Sequence[EngineAccount]) -> Group:
    """Each engine of a bundle: what it is and how it was built, and its layers or why they cannot be seen here."""
    parts: list[Text | Table] = []
    for account in found:
        parts.append(extra_engines.head(account.engine))
        if account.unseen is not None:
            parts.append(terminal.note(account.unseen))
        else:
            parts += [table(account.layers), Text(summary(account.layers))]
    return Group(*parts) if parts else Group(Text("The bundle has no compiled engine, only its graph."))


def table(layers: Sequence[EngineLayer]) -> Table:
    """A row per layer, in the engine's order, with time and its share after a profiled run."""
    total = sum(layer.time_us or 0.0 for layer in layers)
    columns = ("layer", "module", "kind", "in", "tactic", "formats", *(("µs", "share") if total else ()))
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column in ("µs", "share") else "left")
    for layer in layers:
        made.add_row(*_cells(layer), *(_time(layer, total) if total else ()))
    return made


def _cells(layer: EngineLayer) -> tuple[str, ...]:
    arithmetic = (layer.arithmetic or "").upper()
    return layer.name, "\n".join(layer.modules), layer.kind, arithmetic, tactic(layer.tactic), formats(layer)


def _time(layer: EngineLayer, total: float) -> tuple[str, str]:
    return ("", "") if layer.time_us is None else (f"{layer.time_us:.1f}", f"{layer.time_us / total:.1%}")


def tactic(name: str) -> str:
    """`sm80 i8f16 i8i32 256x128x64` of a kernel's long name, `0x3ea` of a number, else the beginning."""
    if name.startswith("0x"):
        return f"0x{digits}" if (digits := name[2:].lstrip("0")) else ""
    words = [word.removeprefix("tilesize") for word in name.split("_") if TELLING.fullmatch(word)]
    return " ".join(words) or (name if len(name) <= TACTIC else f"{name[: TACTIC - 1]}…")


def formats(layer: EngineLayer) -> str:
    """`Int8 NC/32HW32, FP16 linear → FP16 linear`, each once on its side."""
    inputs, outputs = (", ".join(dict.fromkeys(side)) for side in (layer.inputs, layer.outputs))
    return f"{inputs} → {outputs}" if inputs or outputs else ""


def summary(layers: Sequence[EngineLayer]) -> str:
    """`59 layers: 49 INT8, 4 FP32, 6 reformats`, and after a profiled run what time each kind takes. The rest computes
    nothing, or nobody said.
    """
    counts = Counter(layer.arithmetic for layer in layers if layer.arithmetic is not None)
    reformats = [layer for layer in layers if layer.moves_data_only]
    parts = []
    for arithmetic, count in counts.most_common():
        alike = [layer for layer in layers if layer.arithmetic == arithmetic]
        parts.append(f"{count} {arithmetic.upper()}{_taking(alike, layers)}")
    if reformats:
        parts.append(f"{_counted(len(reformats), 'reformat')}{_taking(reformats, layers)}")
    if rest := len(layers) - sum(counts.values()) - sum(layer.arithmetic is None for layer in reformats):
        parts.append(f"{rest} without arithmetic")
    return f"{_counted(len(layers), 'layer')}{': ' if parts else ''}{', '.join(parts)}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _taking(some: Sequence[EngineLayer], layers: Sequence[EngineLayer]) -> str:
    total = sum(layer.time_us or 0.0 for layer in layers)
    return f" taking {sum(layer.time_us or 0.0 for layer in some) / total:.1%} of the time" if total else ""
