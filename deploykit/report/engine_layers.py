"""An engine's layers as text for a terminal. Names are folded, not cut: a profiler prints the same names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploykit.core.values import EngineInspection, EngineLayer
from deploykit.report import extra_engines, terminal

DISTINCTIVE: Final = re.compile(
    r"(?:sm\d+|volta|turing|ampere|hopper|[a-z]?cudnn|h\d+cudnn|tilesize[\dx]+|int8x?\d*|(?:(?:tf|bf|f|i)\d+){2})"
)
"""The parts of a kernel's name that distinguish kernels: GPU, types, tile. The other columns say what it computes."""

TACTIC: Final = 20
"""Longest tactic name, in characters, if it has none of these parts."""


def render_engines(inspections: Sequence[EngineInspection]) -> Group:
    """Each engine of a bundle: library, file and build, then its layers or why they cannot be read here."""
    parts: list[Text | Table] = []
    for account in inspections:
        parts.append(
            extra_engines.engine_heading(account.engine, account.engine.file.bytes)
        )  # a plan has no weights beside it
        if account.unavailable_reason is not None:
            parts.append(terminal.render_note(account.unavailable_reason))
        else:
            parts += [layers_table(account.layers), Text(summarize_layers(account.layers))]
    return Group(*parts)


def layers_table(layers: Sequence[EngineLayer]) -> Table:
    """A row per layer, in the engine's order; after a profiled run with its time and share."""
    total = sum(layer.time_us or 0.0 for layer in layers)
    columns = ("layer", "module", "kind", "in", "tactic", "formats", *(("µs", "share") if total else ()))
    table = terminal.create_table(*columns, right=("µs", "share"))
    for layer in layers:
        table.add_row(*_layer_cells(layer), *(_time_cells(layer, total) if total else ()))
    return table


def _layer_cells(layer: EngineLayer) -> tuple[str, ...]:
    arithmetic = (layer.arithmetic or "").upper()
    return (
        layer.name,
        "\n".join(layer.modules),
        layer.kind,
        arithmetic,
        shorten_tactic(layer.tactic),
        format_tensors(layer),
    )


def _time_cells(layer: EngineLayer, total: float) -> tuple[str, str]:
    return ("", "") if layer.time_us is None else (f"{layer.time_us:.1f}", f"{layer.time_us / total:.1%}")


def shorten_tactic(name: str) -> str:
    """Shorten a tactic's name: `sm80 i8f16 i8i32 256x128x64` for a kernel, `0x3ea` for a number, else its beginning."""
    if name.startswith("0x"):
        return f"0x{digits}" if (digits := name[2:].lstrip("0")) else ""
    words = [word.removeprefix("tilesize") for word in name.split("_") if DISTINCTIVE.fullmatch(word)]
    return " ".join(words) or (name if len(name) <= TACTIC else f"{name[: TACTIC - 1]}…")


def format_tensors(layer: EngineLayer) -> str:
    """`Int8 NC/32HW32, FP16 linear → FP16 linear`, each format once on its side."""
    inputs, outputs = (", ".join(dict.fromkeys(side)) for side in (layer.inputs, layer.outputs))
    return f"{inputs} → {outputs}" if inputs or outputs else ""


def summarize_layers(layers: Sequence[EngineLayer]) -> str:
    """`59 layers: 49 INT8, 4 FP32, 6 reformats`; after a profiled run with each kind's share of the time. The other
    layers compute nothing, or TensorRT does not report their arithmetic.
    """
    counts = Counter(layer.arithmetic for layer in layers if layer.arithmetic is not None)
    reformats = [layer for layer in layers if layer.is_reformat]
    parts = []
    for arithmetic, count in counts.most_common():
        alike = [layer for layer in layers if layer.arithmetic == arithmetic]
        parts.append(f"{count} {arithmetic.upper()}{_format_time_share(alike, layers)}")
    if reformats:
        parts.append(f"{_pluralize(len(reformats), 'reformat')}{_format_time_share(reformats, layers)}")
    if rest := len(layers) - sum(counts.values()) - sum(layer.arithmetic is None for layer in reformats):
        parts.append(f"{rest} without arithmetic")
    return f"{_pluralize(len(layers), 'layer')}{': ' if parts else ''}{', '.join(parts)}"


def _pluralize(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _format_time_share(some: Sequence[EngineLayer], layers: Sequence[EngineLayer]) -> str:
    total = sum(layer.time_us or 0.0 for layer in layers)
    return f" taking {sum(layer.time_us or 0.0 for layer in some) / total:.1%} of the time" if total else ""
