"""`deploykit parity --stages --layers --worst` as text for a terminal: a table for each, then the caveats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploykit.core.values import (
    ClassChange,
    Diagnosis,
    LayerErrors,
    OutputParity,
    SampleDifferences,
    StageParity,
    Stages,
)
from deploykit.report import terminal
from deploykit.report.terminal import create_table, render_failure

SHOWN: Final = 10
"""Layers printed; --json has all of them."""

MOVES: Final = 3
"""Classes printed that samples of one class moved to, the most frequent first; --json has all of them."""


def render_depth(diagnosis: Diagnosis) -> Group:
    """Everything that was tested of one bundle."""
    parts: list[RenderableType] = [Text(f"{diagnosis.bundle} {diagnosis.precision}", "bold")]
    notes: list[str] = []
    if diagnosis.stages is not None:
        parts += [stages_table(diagnosis.stages), *stages_verdict(diagnosis.stages), ""]
        notes += [*list_not_run(diagnosis.stages), *diagnosis.stages.caveats]
    if diagnosis.layers is not None:
        parts += [render_layers(diagnosis.layers), ""]
        notes += diagnosis.layers.caveats
    if diagnosis.samples is not None:
        parts += [render_samples(diagnosis.samples), ""]
    caveats = list(map(terminal.render_note, dict.fromkeys(notes)))
    return Group(*parts, *caveats) if caveats else Group(*parts[:-1])


def stages_table(stages: Stages) -> Table:
    """A row per stage: the SNR of the stage alone and of all stages so far; top-1 if the outputs are classes."""
    ranked = any(output.top1_agreement is not None for stage in stages.stages for output in stage.outputs)
    right = ("stage SNR", "cumulative SNR", *(["top-1 agreement"] if ranked else []))
    table = create_table("stage", "runtime", *right, "", right=right)
    for stage in stages.stages:
        own, all_ = (_worst_output(outputs) for outputs in (stage.stage_outputs, stage.outputs))
        top1 = [_format_top1(all_)] if ranked else []
        table.add_row(stage.stage, stage.subject, _format_snr(own), _format_snr(all_), *top1, _stage_state(stage))
    return table


def stages_verdict(stages: Stages) -> Iterator[RenderableType]:
    """The verdict in one line, naming the failing stage, then the tolerances it exceeds."""
    data = stages.data
    on = f"on {data.count} samples of {data.name}"
    if (failing := stages.failing_stage) is not None:
        line = f"FAILED  {failing.stage} is the failing stage, the first beyond its tolerance {on}"
        yield Text(line, "bold red")
        yield from map(render_failure, failing.failures)
    elif stages.combined_failures:
        yield Text(f"FAILED  every stage is within its tolerance, all of them together are not {on}", "bold red")
        yield from map(render_failure, stages.combined_failures)
    else:
        tested = " that was tested" if list_not_run(stages) else ""
        yield Text(f"PASSED  every stage{tested} is within its tolerance {on}", "bold green")


def list_not_run(stages: Stages) -> list[str]:
    """The stages that were not tested here, each with the reason, as sentences."""
    return [
        f"{stage.stage}, {stage.subject}, was not tested: {stage.not_run_reason.rstrip('.')}"
        for stage in stages.stages
        if stage.not_run_reason is not None
    ]


def render_layers(errors: LayerErrors) -> Group:
    """The worst layers: the noise each adds, as a share of its signal's power, and the SNR of its output."""
    table = create_table("module", "layer", "added noise", "SNR dB", right=("added noise", "SNR dB"))
    for error in errors.layers[:SHOWN]:
        snr = "∞" if error.snr_db is None else f"{error.snr_db:.1f}"
        table.add_row(error.module or error.node, error.op_type, f"{error.added_noise:.1e}", snr)
    rest = len(errors.layers) - SHOWN
    more = f"; --json has the other {rest}" if rest > 0 else ""
    data = errors.data
    title = f"layers by added noise (noise power / signal power), on {data.count} samples of {data.name}{more}"
    return Group(Text(title, "bold"), table)


def render_samples(differences: SampleDifferences) -> Group:
    """Classes whose predictions changed, and the samples whose outputs differ most."""
    parts: list[RenderableType] = []
    if differences.data.labelled and not differences.classes:
        parts.append(Text(f"all {differences.data.count} samples are classified as by PyTorch"))
    if differences.classes:
        parts += [
            Text("classes whose samples are not all classified as by PyTorch", "bold"),
            _class_changes_table(differences),
        ]
    if differences.worst:
        parts += [Text("samples whose outputs differ most", "bold"), _worst_samples_table(differences)]
    return Group(*parts)


def _worst_samples_table(differences: SampleDifferences) -> Table:
    label = ("label",) if any(sample.label is not None for sample in differences.worst) else ()
    table = create_table("sample", *label, "PyTorch", "bundle", "KL nats", right=("KL nats",))
    for sample in differences.worst:
        labels = (sample.label or "",) if label else ()
        table.add_row(sample.name, *labels, sample.reference, sample.candidate, f"{sample.divergence:.1e}")
    return table


def _class_changes_table(differences: SampleDifferences) -> Table:
    right = ("samples", "correct before", "correct now")
    table = create_table("class", *right, "predicted as", right=right)
    for change in differences.classes:
        figures = (change.count, change.reference_correct, change.candidate_correct)
        table.add_row(change.name, *map(str, figures), _format_moves(change))
    return table


def _format_moves(change: ClassChange) -> str:
    """`cat 3, dog 1, and 2 more`"""
    ordered = sorted(change.predicted_as.items(), key=lambda item: -item[1])
    rest = len(ordered) - MOVES
    return ", ".join(
        [f"{name} {count}" for name, count in ordered[:MOVES]] + ([f"and {rest} more"] if rest > 0 else [])
    )


def _worst_output(outputs: tuple[OutputParity, ...]) -> OutputParity | None:
    """The output with the smallest SNR."""
    return min(outputs, key=lambda output: float("inf") if output.snr_db is None else output.snr_db, default=None)


def _format_snr(output: OutputParity | None) -> str:
    if output is None:
        return ""
    return "∞" if output.snr_db is None else "−∞" if output.snr_db < -1e300 else f"{output.snr_db:.1f} dB"


def _format_top1(output: OutputParity | None) -> str:
    return "" if output is None or output.top1_agreement is None else f"{output.top1_agreement:.0%}"


def _stage_state(stage: StageParity) -> Text:
    if stage.not_run_reason is not None:
        return Text("not run", "yellow")
    return Text("FAIL", "bold red") if stage.failures else Text("pass", "green")
