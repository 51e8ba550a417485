"""Values as text for a terminal: at most 80 columns, colour only where there is one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from deploykit.core.values import (
    Accuracy,
    BatchRange,
    CatalogRow,
    Finding,
    Latency,
    LayerRow,
    MatrixRow,
    ModelSpec,
    OutputParity,
    Parity,
    Prediction,
    TensorSpec,
    WeightsRecord,
)

WIDTH = 80


def console(stderr: bool = False) -> Console:
    """A console that wraps at the terminal's width, or at 80 columns where there is none.

    Names of folders, nodes and classes are printed as they are: a bracket in one is no markup, a colon no emoji.
    """
    width = None if Console(stderr=stderr).is_terminal else WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def catalog(rows: Sequence[CatalogRow]) -> Group:
    """`deploykit list`: a row per network, and the papers below."""
    table = _table("network", "params", "MACs", "input", "classes", "released", "paper")
    for column in (1, 2, 3, 4):
        table.columns[column].justify = "right"
    papers: dict[str, str] = {}
    for row in rows:
        authors, _, place = row.paper.partition(", arXiv ")
        number, _, section = place.partition(", ")
        papers[number] = authors
        size, released = f"{row.height}×{row.width}", "imagenet" if row.pretrained else ""
        figures = (_count(row.parameters), _count(row.macs), size, str(row.classes), released)
        table.add_row(row.name, *figures, f"{number} {section.split('(')[0].split(';')[0].strip()}")
    references = [f"arXiv {number}  {authors}" for number, authors in papers.items()]
    weights = "Every network takes --weights random or a checkpoint; `released` names what can be downloaded."
    return Group(table, "", *references, "", weights)


def verdict(parity: Parity, precision: str) -> Text:
    """One line that says it, and what the figures were."""
    text = Text("PASSED" if parity.passed else "FAILED", style="bold green" if parity.passed else "bold red")
    text.append(
        f"  {precision} against {parity.oracle} on {parity.data.count} samples of {parity.data.name}", style="none"
    )
    for output in parity.outputs:
        text.append(f"\n  {_figures(output)}", style="none")
    if parity.accuracy is not None:
        text.append(f"\n  {accuracy(parity.accuracy, parity.oracle)}", style="none")
    for failure in parity.failures:
        text.append(f"\n  × {failure}", style="red")
    for statement in parity.statements:
        text.append("\n").append_text(note(statement))
    return text


def note(statement: str) -> Text:
    """What a reader must know beside the figures, in lines that stay together."""
    lines = textwrap.fill(statement, WIDTH - 1, initial_indent="  note: ", subsequent_indent="        ")
    return Text(lines, style="yellow")


def accuracy(figures: Accuracy, oracle: str) -> str:
    """Top-1 of both, as percentages."""
    return f"top-1 on {figures.count} labelled samples {figures.candidate:.2%}, {oracle} {figures.reference:.2%}"


def _figures(output: OutputParity) -> str:
    snr = "identical" if output.snr_db is None else f"SNR {output.snr_db:.1f} dB"
    parts = [f"{output.name}: max |Δ| {output.max_relative:.1e} of full scale", snr, f"cosine {output.cosine:.7f}"]
    if output.top1_agreement is not None:
        parts.append(f"top-1 agrees {output.top1_agreement:.1%}")
    return ", ".join(parts)


def latency(figures: Latency) -> Text:
    """Percentiles in milliseconds."""
    text = Text(
        f"latency at batch {figures.batch}: p50 {figures.p50_ms:.2f} ms, p90 {figures.p90_ms:.2f} ms, "
        f"p99 {figures.p99_ms:.2f} ms ({figures.iterations} calls, {figures.throughput_per_s:.1f} samples/s)"
    )
    if not figures.settled:
        text.append("\n").append_text(note("warm-up never settled: the machine was busy"))
    return text


def matrix(rows: Iterable[MatrixRow]) -> Table:
    """`deploykit parity`: a row per network and precision."""
    table = _table("network", "precision", "verdict", "max |Δ|", "SNR dB", "cosine", "top-1", "INT8")
    for column in (3, 4, 5, 6, 7):
        table.columns[column].justify = "right"
    for row in rows:
        output = row.parity.outputs[0] if row.parity.outputs else None
        passed = Text("passed", "green") if row.passed else Text("FAILED", "bold red")
        int8 = f"{row.receipt.shares.get('int8', 0.0):.1%}" if row.receipt and row.precision.startswith("int8") else ""
        table.add_row(row.model, row.precision, passed, *(_cells(output) if output else ("", "", "", "")), int8)
    return table


def matrix_line(row: MatrixRow) -> str:
    """`resnet50 int8: passed, SNR 25.4 dB`, while the rest of the matrix is still to come."""
    worst = min((output.snr_db for output in row.parity.outputs if output.snr_db is not None), default=None)
    figures = "" if worst is None else f", SNR {worst:.1f} dB"
    return f"{row.model} {row.precision}: {'passed' if row.passed else 'FAILED'}{figures}"


def _cells(output: OutputParity) -> tuple[str, str, str, str]:
    snr = "∞" if output.snr_db is None else f"{output.snr_db:.1f}"
    top1 = "" if output.top1_agreement is None else f"{output.top1_agreement:.0%}"
    return f"{output.max_relative:.1e}", snr, f"{output.cosine:.6f}", top1


def predictions(rows: Iterable[Prediction]) -> Text:
    """`deploykit run`: the best classes of each image."""
    text = Text()
    for row in rows:
        text.append(f"{row.image}\n", style="bold")
        for label, score in zip(row.labels, row.scores, strict=True):
            text.append(f"  {score:7.2%}  {label}\n", style="none")
    text.rstrip()
    return text


def summary(
    model: ModelSpec,
    weights: WeightsRecord,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    batch: BatchRange,
) -> Text:
    """A bundle in a few lines."""
    text = Text(model.name, style="bold")
    text.append(f"  {model.paper}\nweights: {weights.source}{'' if weights.trained else ' (untrained)'}", style="none")
    for spec in (*inputs, *outputs):
        text.append(f"\n{spec.name}: {spec.dtype} {_shape(spec.shape)} {spec.layout}", style="none")
    text.append(f"\nbatch: {batch.minimum} to {batch.maximum}", style="none")
    return text


def _shape(shape: Sequence[int | str]) -> str:
    return "×".join("N" if size == "batch" else str(size) for size in shape)


def layers(rows: Sequence[LayerRow]) -> Table:
    """`deploykit inspect`: a row per node."""
    table = _table("node", "operator", "type", "shape", "weights")
    table.columns[4].justify = "right"
    for row in rows:
        table.add_row(
            row.name, row.op_type, row.dtype, _shape(row.shape), size(row.weight_bytes) if row.weight_bytes else ""
        )
    return table


def findings(rows: Sequence[Finding]) -> Table:
    """`deploykit doctor`."""
    colours = {"ok": "green", "missing": "yellow", "broken": "bold red"}
    table = _table("", "state", "found")
    for row in rows:
        detail = row.detail if row.remedy is None else f"{row.detail}\n→ {row.remedy}"
        table.add_row(row.subject, Text(row.state, colours[row.state]), detail)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _count(number: int) -> str:
    """12.3 M, 4.1 G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return str(number)


def size(number: int) -> str:
    """97.5 MiB."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number} B"
