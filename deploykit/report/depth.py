"""Parity in depth as text for a terminal: stages, layers and samples, each a table and what must be said beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploykit.core.values import ClassChange, Depth, LayerErrors, OutputParity, SampleAccount, StageParity, Stages
from deploykit.report import terminal

SHOWN: Final = 10
"""Layers; --json has all of them."""

MOVES: Final = 3
"""Classes that one class went to, the most frequent first; --json has all of them."""


def account(found: Depth) -> Group:
    """All that was looked at of one bundle."""
    parts: list[RenderableType] = [Text(f"{found.bundle} {found.precision}", "bold")]
    notes: list[str] = []
    if found.stages is not None:
        parts += [stages(found.stages), *verdict(found.stages), ""]
        notes += [*unseen(found.stages), *found.stages.statements]
    if found.layers is not None:
        parts += [layers(found.layers), ""]
        notes += found.layers.statements
    if found.samples is not None:
        parts += [samples(found.samples), ""]
    said = list(map(terminal.note, dict.fromkeys(notes)))
    return Group(*parts, *said) if said else Group(*parts[:-1])


def stages(found: Stages) -> Table:
    """A row per stage: what it did by itself, and what has come together so far; top-1 where outputs are classes."""
    ranked = any(output.top1_agreement is not None for stage in found.stages for output in stage.outputs)
    table = _table("stage", "answered by", "own dB", "all dB", *(["top-1"] if ranked else []), "")
    for column in table.columns[2:-1]:
        column.justify = "right"
    for stage in found.stages:
        own, all_ = (_worst(outputs) for outputs in (stage.own, stage.outputs))
        top1 = [_top1(all_)] if ranked else []
        table.add_row(called(stage), stage.subject, _decibels(own), _decibels(all_), *top1, _state(stage))
    return table


def called(stage: StageParity) -> str:
    """What a reader knows the stage as: typing is by Casts or by Q/DQ pairs."""
    if stage.stage != "typing":
        return stage.stage
    return "Q/DQ" if stage.tolerance is not None and stage.tolerance.name.startswith("int8") else "cast"


def verdict(found: Stages) -> Iterator[Text]:
    """Who is guilty, in a line, and by which bounds."""
    data = found.data
    on = f"on {data.count} samples of {data.name}"
    if (guilty := found.guilty) is not None:
        yield Text(f"FAILED  the {called(guilty)} stage is guilty: the first beyond its bound {on}", "bold red")
        yield from (Text(f"  × {failure}", "red") for failure in guilty.failures)
    elif found.together:
        yield Text(f"FAILED  no stage by itself, but all of them together {on}", "bold red")
        yield from (Text(f"  × {failure}", "red") for failure in found.together)
    else:
        seen = "seen here " if unseen(found) else ""
        yield Text(f"PASSED  every stage {seen}keeps its bound {on}", "bold green")


def unseen(found: Stages) -> list[str]:
    """What could not be looked at here, and why, as sentences."""
    return [
        f"{called(stage)}, {stage.subject}, was not looked at: {stage.unchecked.rstrip('.')}"
        for stage in found.stages
        if stage.unchecked is not None
    ]


def layers(found: LayerErrors) -> Group:
    """The worst layers: what each adds, as a share of its signal's power, and how good its tensor still is."""
    table = _table("module", "layer", "adds", "SNR dB")
    for column in (2, 3):
        table.columns[column].justify = "right"
    for error in found.layers[:SHOWN]:
        snr = "∞" if error.snr_db is None else f"{error.snr_db:.1f}"
        table.add_row(error.module or error.node, error.op_type, f"{error.added:.1e}", snr)
    rest = len(found.layers) - SHOWN
    more = f"; --json has the other {rest}" if rest > 0 else ""
    title = f"layers by the noise over signal that each adds, on {found.data.count} samples of {found.data.name}{more}"
    return Group(Text(title, "bold"), table)


def samples(found: SampleAccount) -> Group:
    """Classes whose answers changed, and the samples whose answers differ most."""
    parts: list[RenderableType] = []
    if found.data.labelled and not found.classes:
        parts.append(Text(f"every one of {found.data.count} samples is put in the class where PyTorch puts it"))
    if found.classes:
        parts += [Text("classes whose samples are put elsewhere than by PyTorch", "bold"), _changes(found)]
    if found.worst:
        parts += [Text("samples whose answers differ most", "bold"), _furthest(found)]
    return Group(*parts)


def _furthest(found: SampleAccount) -> Table:
    label = ("label",) if any(sample.label is not None for sample in found.worst) else ()
    table = _table("sample", *label, "PyTorch says", "the bundle", "KL nats")
    table.columns[-1].justify = "right"
    for sample in found.worst:
        given = (sample.label or "",) if label else ()
        table.add_row(sample.name, *given, sample.reference, sample.candidate, f"{sample.divergence:.1e}")
    return table


def _changes(found: SampleAccount) -> Table:
    table = _table("class", "samples", "right before", "right now", "went to")
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
    for change in found.classes:
        figures = (change.count, change.reference_right, change.candidate_right)
        table.add_row(change.name, *map(str, figures), _went(change))
    return table


def _went(change: ClassChange) -> str:
    """`cat 3, dog 1, and 2 more`"""
    ordered = sorted(change.went_to.items(), key=lambda item: -item[1])
    rest = len(ordered) - MOVES
    return ", ".join(
        [f"{name} {count}" for name, count in ordered[:MOVES]] + ([f"and {rest} more"] if rest > 0 else [])
    )


def _worst(outputs: tuple[OutputParity, ...]) -> OutputParity | None:
    """The output with the smallest SNR."""
    return min(outputs, key=lambda output: float("inf") if output.snr_db is None else output.snr_db, default=None)


def _decibels(output: OutputParity | None) -> str:
    if output is None:
        return ""
    return "∞" if output.snr_db is None else "−∞" if output.snr_db < -1e300 else f"{output.snr_db:.1f}"


def _top1(output: OutputParity | None) -> str:
    return "" if output is None or output.top1_agreement is None else f"{output.top1_agreement:.0%}"


def _state(stage: StageParity) -> Text:
    if stage.unchecked is not None:
        return Text("not seen", "yellow")
    return Text("BROKEN", "bold red") if stage.failures else Text("kept", "green")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
