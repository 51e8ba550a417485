"""Values as text for a terminal. Lines wrap at its width and have colour there; a pipe or a file gets whole lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from deploykit.core.values import (
    Accuracy,
    BatchRange,
    CatalogRow,
    Finding,
    Fp32Comparison,
    Latency,
    LayerRow,
    MatrixRow,
    ModelSpec,
    OutputParity,
    Parity,
    PrecisionReceipt,
    Prediction,
    TensorSpec,
    WeightsRecord,
)
from deploykit.report.formatting import fill_bundle_path, format_batch_shape, format_bytes, format_path
from deploykit.report.speedup import describe_slowdown, describe_speedup
from deploykit.report.verdict import format_headline, list_qualifiers, list_verdict_lines

UNWRAPPED: Final = 1_000_000
"""Columns of a pipe or a file: more than any line needs."""


class LineConsole(Console):
    """A console for pipes and files: it breaks no line, and leaves no blanks at the end of one."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does, without the blanks that pad the last column of a table."""
        with self.capture() as capture:
            super().print(*objects, **options)
        lines = "\n".join(line.rstrip() for line in capture.get().split("\n"))
        super().print(Text(lines), end="", soft_wrap=True)


def create_console(stderr: bool = False) -> Console:
    """Create a console that wraps at the terminal's width, and nowhere if the stream is not a terminal.

    Names of folders, nodes and classes are printed literally: brackets are not markup, colons are not emoji. Rich
    honours NO_COLOR.
    """
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return LineConsole(stderr=stderr, width=UNWRAPPED, highlight=False, markup=False, emoji=False)


def create_table(*columns: str, right: Sequence[str] = (), gap: int = 1) -> Table:
    """Create a table without lines; the columns in `right` are right-aligned and never folded."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for column in columns:
        aligned = column in right
        table.add_column(column, overflow="fold", justify="right" if aligned else "left", no_wrap=aligned)
    return table


def hang(label: str, text: str, style: str = "none") -> Table:
    """Print `label` and then `text`, whose further lines are indented to where it began."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(label, style), Text(text, style))
    return grid


def render_note(statement: str) -> Table:
    """Something that the reader must know about the figures above."""
    return hang("  note:", statement, "yellow")


def render_failure(failure: str) -> Table:
    """One failed check."""
    return hang("  ×", failure, "red")


def render_catalog(rows: Sequence[CatalogRow]) -> Group:
    """`deploykit list`: a row per network, then the papers."""
    right = ("params", "MACs", "input", "classes")
    table = create_table("network", *right, "released", "paper", right=right)
    papers: dict[str, str] = {}
    for row in rows:
        authors, _, place = row.paper.partition(", arXiv ")
        number, _, section = place.partition(", ")
        papers[number] = authors
        size, released = f"{row.height}×{row.width}", "imagenet" if row.pretrained else ""
        figures = (_format_count(row.parameters), _format_count(row.macs), size, str(row.classes), released)
        table.add_row(row.name, *figures, f"{number} {section.split('(')[0].split(';')[0].strip()}")
    references = [f"arXiv {number}  {authors}" for number, authors in papers.items()]
    weights = "Every network takes --weights random or a checkpoint; `released` names weights that can be downloaded."
    return Group(table, "", *references, "", weights)


def render_verdict(
    parity: Parity,
    precision: str,
    folder: Path | None = None,
    receipt: PrecisionReceipt | None = None,
    other_failures: Sequence[str] = (),
) -> Group:
    """The verdict in one line, then its figures, failures and caveats; commands in them name the bundle's `folder`.

    `receipt` is that of the engine, `other_failures` what failed besides parity.
    """
    passed = parity.passed and not other_failures
    headline = format_headline(passed, list_qualifiers(parity, precision, receipt))
    text = Text(headline, style="bold green" if passed else "bold red")
    text.append(
        f"  {precision} against {parity.oracle} on {parity.data.count} samples of {parity.data.name}", style="none"
    )
    figures = list(list_verdict_lines(parity, precision)) or [_format_output(output) for output in parity.outputs]
    if parity.accuracy is not None:
        figures.append(format_accuracy(parity.accuracy, parity.oracle))
    caveats = parity.caveats
    if folder is not None:
        caveats = tuple(fill_bundle_path(caveat, format_path(folder)) for caveat in caveats)
    return Group(
        text,
        *(hang(" ", figure) for figure in figures),
        *map(render_failure, (*parity.failures, *other_failures)),
        *map(render_note, caveats),
    )


def format_accuracy(figures: Accuracy, oracle: str) -> str:
    """Top-1 accuracy of the candidate and of the oracle, in percent."""
    interval = ""
    if figures.drop_low is not None and figures.drop_high is not None:
        points = f"{100 * figures.drop_low:.1f} to {100 * figures.drop_high:.1f} points"
        interval = f", drop {100 * figures.drop:.2f} points (95 % interval {points})"
    return (
        f"top-1 on {figures.count} labelled samples {figures.candidate:.2%}, {oracle} {figures.reference:.2%}{interval}"
    )


def _format_output(output: OutputParity) -> str:
    snr = "identical" if output.snr_db is None else f"SNR {output.snr_db:.1f} dB"
    parts = [f"{output.name}: max |Δ| {output.max_relative:.1e} of full scale", snr]
    if output.cosine is not None:
        parts.append(f"cosine {output.cosine:.7f}")
    if output.top1_agreement is not None:
        parts.append(f"top-1 agreement {output.top1_agreement:.1%}")
    return ", ".join(parts)


def render_latency(figures: Latency) -> Group:
    """Latency percentiles in milliseconds."""
    text = Text(
        f"latency at batch {figures.batch}: p50 {figures.p50_ms:.2f} ms, p90 {figures.p90_ms:.2f} ms, "
        f"p99 {figures.p99_ms:.2f} ms ({figures.iterations} calls, {figures.throughput_per_s:.1f} samples/s)"
    )
    if figures.settled:
        return Group(text)
    return Group(text, render_note("warm-up did not settle: the machine was busy"))


def render_speedup(beside: Fp32Comparison, precision: str, backend: str) -> Group:
    """The engine beside FP32 on the same backend; a note where it is slower."""
    slowdown = describe_slowdown(beside, precision, backend)
    return Group(describe_speedup(beside, backend), *([] if slowdown is None else [render_note(slowdown)]))


def matrix_table(rows: Iterable[MatrixRow]) -> Table:
    """`deploykit parity`: a row per network and precision."""
    right = ("max |Δ|", "SNR dB", "cosine", "top-1", "INT8")
    table = create_table("network", "precision", "verdict", *right, right=right)
    for row in rows:
        output = row.parity.outputs[0] if row.parity.outputs else None
        passed = Text("passed", "green") if row.passed else Text("FAILED", "bold red")
        int8 = f"{row.receipt.shares.get('int8', 0.0):.1%}" if row.receipt and row.precision.startswith("int8") else ""
        cells = _output_cells(output, row.parity) if output else ("", "", "", "")
        table.add_row(row.model, row.precision, passed, *cells, int8)
    return table


def format_matrix_row(row: MatrixRow) -> str:
    """`resnet50 int8: passed, SNR 25.4 dB`, printed as soon as the row is known."""
    worst = row.parity.worst_snr_db
    figures = "" if worst is None else f", SNR {worst:.1f} dB"
    return f"{row.model} {row.precision}: {'passed' if row.passed else 'FAILED'}{figures}"


def _output_cells(output: OutputParity, parity: Parity) -> tuple[str, str, str, str]:
    snr = "∞" if parity.worst_snr_db is None else f"{parity.worst_snr_db:.1f}"
    top1 = "" if output.top1_agreement is None else f"{output.top1_agreement:.0%}"
    cosine = "" if output.cosine is None else f"{output.cosine:.6f}"
    return f"{output.max_relative:.1e}", snr, cosine, top1


def render_predictions(rows: Iterable[Prediction]) -> Text:
    """`deploykit run`: the top classes of each image."""
    text = Text()
    for row in rows:
        text.append(f"{row.image}\n", style="bold")
        for label, score in zip(row.labels, row.scores, strict=True):
            text.append(f"  {score:7.2%}  {label}\n", style="none")
    text.rstrip()
    return text


def render_summary(
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
        text.append(f"\n{spec.name}: {spec.dtype} {format_batch_shape(spec.shape)} {spec.layout}", style="none")
    text.append(f"\nbatch: {batch.minimum} to {batch.maximum}", style="none")
    return text


def nodes_table(rows: Sequence[LayerRow]) -> Table:
    """`deploykit inspect`: a row per node."""
    table = create_table("node", "operator", "type", "shape", "weights", right=("weights",))
    for row in rows:
        table.add_row(
            row.name,
            row.op_type,
            row.dtype,
            format_batch_shape(row.shape) if row.shape else "",
            format_bytes(row.weight_bytes) if row.weight_bytes else "",
        )
    return table


def findings_table(rows: Sequence[Finding]) -> Table:
    """`deploykit doctor`."""
    colours = {"ok": "green", "missing": "yellow", "broken": "bold red"}
    table = create_table("", "state", "found")
    for row in rows:
        detail = row.detail if row.remedy is None else f"{row.detail}\n→ {row.remedy}"
        table.add_row(row.subject, Text(row.state, colours[row.state]), detail)
    return table


def _format_count(number: int) -> str:
    """`12.3 M`, `4.1 G`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return str(number)
