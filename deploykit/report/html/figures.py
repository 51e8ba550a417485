"""Drawings of a report: one function per drawing, from values to an SVG element."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from deploykit.core.values import (
    Arithmetic,
    Bench,
    Budget,
    CalibrationReceipt,
    LayerErrors,
    Measurement,
    OutputParity,
    Precision,
    PrecisionReceipt,
    StageParity,
    Stages,
)
from deploykit.report.bench import ENOUGH_FOR_P999
from deploykit.report.bundle_document import EngineRow, worst_snr
from deploykit.report.formatting import format_db, format_ms, format_percent, format_power, format_precision
from deploykit.report.html.svg import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    render_svg,
    strip_control_characters,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

WORST: Final = 10
"""Layers drawn; the table has more."""

LONGEST: Final = 48
"""Longest name in a drawing, in characters."""

ARITHMETIC: Final[dict[Arithmetic, str]] = {"int8": GREEN, "fp16": BLUE, "bf16": PURPLE, "fp32": GREY}

PRECISION: Final[dict[Precision, tuple[str, str]]] = {
    "fp32": (GREY, "o"), "fp16": (BLUE, "s"), "bf16": (PURPLE, "D"), "int8": (GREEN, "^"), "int8-fp16": (ORANGE, "v"),
}  # fmt: skip
"""Colour and shape of a point, so that colour-blind readers can distinguish precisions."""


def draw_stages(stages: Stages) -> Markup | None:
    """Draw the stage SNR and the cumulative SNR of each stage; None if no output differs."""
    tested = [stage for stage in stages.stages if stage.not_run_reason is None and stage.outputs]
    values = [
        value
        for stage in tested
        for outputs in (stage.stage_outputs, stage.outputs)
        if (value := _worst_db(outputs)) is not None
    ]
    if not values:
        return None
    end = 1.1 * max(values)  # bars of identical outputs end here

    def plot_stages(axes: Axes) -> None:
        for place, stage in enumerate(tested):
            own, total = _worst_db(stage.stage_outputs), _worst_db(stage.outputs)
            if stage.stage_outputs:
                axes.barh(place, end if own is None else own, 0.5, color=ORANGE if stage.failures else BLUE, zorder=2)
            if stage.tolerance is not None:
                bound = stage.tolerance.min_snr_db
                axes.plot([bound, bound], [place - 0.25, place + 0.38], color=INK, linewidth=2, zorder=4)
            if total is not None:
                axes.plot(total, place, "o", markeredgecolor=INK, markerfacecolor=PAPER, zorder=5)
            axes.annotate(_stage_text(stage, ": "), (0, place - 0.3), (0, 1), textcoords="offset points", va="bottom")
        axes.set(ylim=(len(tested) - 0.5, -0.8), yticks=[], xlim=(0, end), xlabel="SNR, dB: more is better")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    parts = ", ".join(_stage_text(stage, " ") for stage in tested)
    return render_svg("stages", f"Stage SNR: {parts}", 56 + 44 * len(tested), plot_stages)


def _stage_text(stage: StageParity, separator: str) -> str:
    """The stage and its own SNR; an export measures the engine together with the conversion before it, not alone."""
    snr = format_db(_worst_db(stage.stage_outputs)) if stage.stage_outputs else "not measured alone"
    return f"{stage.stage}{separator}{snr}"


def draw_layers(errors: LayerErrors) -> Markup | None:
    """Draw the layers that add most noise, as bars; None if no layer adds any."""
    worst = [layer for layer in errors.layers if layer.added_noise > 0][:WORST]
    if not worst:
        return None

    def plot_layers(axes: Axes) -> None:
        axes.barh(range(len(worst)), [layer.added_noise for layer in worst], 0.45, color=BLUE)
        for place, layer in enumerate(worst):
            name = _shorten_name(layer.module or layer.node)
            axes.annotate(name, (0, place - 0.24), (0, 1), textcoords="offset points", va="bottom", fontsize=11)
        axes.set(ylim=(len(worst) - 0.6, -0.9), yticks=[], xlabel="noise added, as a share of the signal's power")
        axes.xaxis.set_major_formatter(lambda value, _: "0" if value == 0 else f"{value:.1e}")
        axes.locator_params(axis="x", nbins=4)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    first = worst[0]
    noise = f"{first.module or first.node} adds {format_power(first.added_noise)}"
    text = f"Noise that layers add, the worst {len(worst)}: {noise}"
    return render_svg("layers", text, 56 + 36 * len(worst), plot_layers)


def draw_latency(measurement: Measurement, name: str) -> Markup | None:
    """Draw a histogram of call durations with percentiles; None if durations were not recorded."""
    figures = measurement.latency
    if not measurement.durations_ns:
        return None
    durations = [duration / 1e6 for duration in measurement.durations_ns]
    limit = max(1.1 * figures.p95_ms, 2.5 * figures.p50_ms)  # stalls beyond would compress the rest of the axis
    visible = [duration for duration in durations if duration <= limit]
    end = max(visible)
    marks = {"p50": figures.p50_ms, "p90": figures.p90_ms, "p99": figures.p99_ms}
    if figures.iterations >= ENOUGH_FOR_P999:
        marks["p99.9"] = measurement.p999_ms

    def plot_latency(axes: Axes) -> None:
        axes.hist(visible, bins=min(60, max(10, len(visible) // 8)), color=BLUE)
        highest = axes.get_ylim()[1]
        for row, (mark, value) in enumerate(marks.items()):
            height = highest * (1.42 - 0.11 * row)
            text, place = f"{mark} {format_ms(value)}", min(value, end)
            if value <= end:
                axes.plot([value, value], [0, height], color=INK, linewidth=1, linestyle=(0, (4, 2)))
            else:
                text = f"{text} →"
            side = "left" if place < (min(visible) + end) / 2 else "right"
            shift = (4 if side == "left" else -4, 0)
            axes.annotate(text, (place, height), shift, textcoords="offset points", va="top", ha=side, fontsize=11)
        axes.set(ylim=(0, highest * 1.45), ylabel="calls", xlabel=f"ms per call of batch {figures.batch}")
        axes.grid(axis="x", visible=False)

    parts = ", ".join(f"{mark} {format_ms(value)}" for mark, value in marks.items())
    text = (
        f"Histogram of {len(visible)} of {len(durations)} calls of batch {figures.batch}, those up to {format_ms(end)}"
    )
    return render_svg(name, f"{text}: {parts}", 260, plot_latency)


def draw_batch_sweep(bench: Bench, name: str) -> Markup | None:
    """Draw samples per second over the batch size, with the knee; None for a single batch size."""
    points = sorted(
        (measurement.latency.batch, measurement.latency.throughput_per_s) for measurement in bench.measurements
    )
    batches = [batch for batch, _ in points]
    if len(set(batches)) < 2:
        return None

    def plot_batch_sweep(axes: Axes) -> None:
        axes.plot(batches, [rate for _, rate in points], color=BLUE, marker="o")
        for batch, rate in points:
            if batch == bench.knee:
                axes.plot(batch, rate, "o", markersize=13, markeredgecolor=ORANGE, markeredgewidth=2, color="none")
                axes.annotate(
                    f"knee: batch {batch}", (batch, rate), (0, 11), textcoords="offset points", ha="center", va="bottom"
                )
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_xticks([], minor=True)
        axes.set(
            ylim=(0, 1.22 * max(rate for _, rate in points)), xlabel="samples per call", ylabel="samples per second"
        )
        axes.margins(x=0.08)

    parts = ", ".join(f"{rate:.0f} at batch {batch}" for batch, rate in points)
    knee = "" if bench.knee is None else f"; the knee is at batch {bench.knee}"
    return render_svg(name, f"Samples per second: {parts}{knee}", 240, plot_batch_sweep)


def draw_precision_share(receipt: PrecisionReceipt) -> Markup | None:
    """Draw the multiply-accumulates by executed precision, as one bar whose first and last part are labelled; None for
    a network without any.
    """
    shares = sorted(receipt.shares.items(), key=lambda item: (-item[1], item[0]))
    if not shares:
        return None

    def plot_precision_share(axes: Axes) -> None:
        ends = list(itertools.accumulate((value for _, value in shares), initial=0.0))
        for (arithmetic, value), left in zip(shares, ends, strict=False):
            axes.barh(0, value, 0.5, left=left, color=ARITHMETIC[arithmetic], edgecolor=PAPER, linewidth=1.5)
        for (arithmetic, value), side in zip((shares[0], *shares[1:][-1:]), (0, 1), strict=False):
            text, place = f"{arithmetic.upper()} {format_percent(value)}", "right" if side else "left"
            axes.annotate(text, (side, -0.3), (0, -4), textcoords="offset points", ha=place, va="top")
        axes.set(xlim=(0, 1), ylim=(-0.9, 0.3), yticks=[], xticks=[])
        axes.set_frame_on(False)
        axes.grid(visible=False)

    parts = ", ".join(f"{format_percent(value)} {arithmetic.upper()}" for arithmetic, value in shares)
    return render_svg("share", f"Multiply-accumulates by executed precision: {parts}", 72, plot_precision_share)


def draw_convergence(receipt: CalibrationReceipt) -> Markup | None:
    """Draw the distance of thresholds at N samples from the final ones; None for fewer than two values of N."""
    steps = receipt.convergence
    if len(steps) < 2:
        return None
    samples = [step.samples for step in steps]

    def plot_convergence(axes: Axes) -> None:
        for label, values, colour, marker in (
            ("worst tensor", [100 * step.worst for step in steps], ORANGE, "s"),
            ("median tensor", [100 * step.median for step in steps], BLUE, "o"),
        ):
            axes.plot(samples, values, color=colour, marker=marker)
            axes.annotate(label, (samples[0], values[0]), (8, 4), textcoords="offset points", va="bottom")
        axes.set_xscale("log", base=2)
        axes.set_xticks(samples, [str(count) for count in samples])
        axes.set_xticks([], minor=True)
        axes.set(xlabel=f"calibration samples, of {receipt.data.count}", ylabel="% from the final range")
        axes.set_ylim(0, 115 * max(step.worst for step in steps) or 1)
        axes.margins(x=0.1)

    parts = ", ".join(f"{step.worst:.1%} and {step.median:.1%} after {step.samples}" for step in steps)
    return render_svg(
        "convergence", f"Worst and median distance from the final thresholds: {parts} samples", 240, plot_convergence
    )


def draw_budget(budget: Budget) -> Markup | None:
    """Draw the accuracy as layers leave INT8; None if every layer stayed."""
    if not budget.steps:
        return None
    values = [budget.start, *(step.after for step in budget.steps)]

    def plot_budget(axes: Axes) -> None:
        axes.plot(range(len(values)), values, color=BLUE, marker="o")
        axes.axhline(budget.limit, color=ORANGE, linestyle=(0, (5, 3)), linewidth=1.5)
        axes.annotate(f"limit {budget.limit:g}", (0, budget.limit), (0, 4), textcoords="offset points", va="bottom")
        unit = "top-1 drop, points" if budget.metric == "top-1 drop" else "SNR, dB"
        axes.set(xlabel="layers out of INT8", ylabel=unit)
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.08, y=0.15)

    ends = f"{budget.start:.2f} with none, {budget.end:.2f} with {len(budget.steps)}"
    text = f"{budget.metric} with layers out of INT8: {ends}"
    return render_svg("budget", f"{text}; the limit is {budget.limit:g}", 220, plot_budget)


def pareto_metric(rows: Sequence[EngineRow]) -> str:
    """The vertical axis of the Pareto plot: accuracy if every measured row has it, else SNR."""
    return "Top-1 accuracy" if _have_accuracy([row for row in rows if row.latency is not None]) else "Output SNR"


def _have_accuracy(rows: Sequence[EngineRow]) -> bool:
    return all(row.accuracy is not None for row in rows)


def draw_pareto(rows: Sequence[EngineRow]) -> Markup | None:
    """Draw accuracy or SNR over latency with the Pareto front of the rows that passed. None if fewer than two rows have
    both figures.
    """
    timed = [row for row in rows if row.latency is not None]
    by_accuracy = _have_accuracy(timed)
    highest = max((row.snr_db for row in timed if row.snr_db is not None), default=100.0)
    points = [point for row in timed if (point := _pareto_point(row, by_accuracy, highest)) is not None]
    if len(points) < 2:
        return None
    what = "top-1 accuracy, %" if by_accuracy else "SNR, dB"

    def plot_pareto(axes: Axes) -> None:
        front = _pareto_front([(x, y) for x, y, row in points if row.passed])
        axes.plot([x for x, _ in front], [y for _, y in front], color=LINE, linewidth=3, zorder=1)
        for precision in dict.fromkeys(row.precision for _, _, row in points):
            colour, marker = PRECISION[precision]
            own = [(x, y) for x, y, row in points if row.precision == precision]
            axes.plot(
                *zip(*own, strict=True), marker, color=colour, markersize=8, label=format_precision(precision), zorder=3
            )
        times = [x for x, _, _ in points]
        if max(times) > 8 * min(times):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="p50 latency, ms: left is better", ylabel=f"{what}: up is better")
        axes.margins(x=0.14, y=0.16)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=5, handletextpad=0.1)
        _label_points(axes, points)

    parts = "; ".join(f"{row.number} {row.bundle} {row.backend}: {x:.2f} ms, {y:.1f}" for x, y, row in points)
    return render_svg("pareto", f"{what} over p50 latency of {len(points)} engines: {parts}", 290, plot_pareto)


def _pareto_point(row: EngineRow, by_accuracy: bool, highest: float) -> tuple[float, float, EngineRow] | None:
    """Coordinates of a row. Identical outputs have an infinite SNR and are drawn at the upper edge."""
    assert row.latency is not None
    if by_accuracy:
        assert row.accuracy is not None
        return row.latency.p50_ms, 100 * row.accuracy.candidate, row
    decibels = highest + 10 if row.identical else row.snr_db
    return None if decibels is None else (row.latency.p50_ms, _clamp_db(decibels), row)


def _pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both coordinates, from the fastest on."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _label_points(axes: Axes, points: Sequence[tuple[float, float, EngineRow]]) -> None:
    """Label each point with its bundle's name or its row number, on the first side with room."""
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # fixes the positions of the points
    inside = axes.get_window_extent()
    marks = [axes.transData.transform((x, y)) for x, y, _ in points]
    occupied = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in marks]
    for x, y, row in points:
        for text in (f"{row.number} {_shorten_name(row.bundle, 22)}", str(row.number)):
            if _place_label(axes, text, (x, y), inside, occupied):
                break


SIDES: Final = (
    ((0, 9), "center", "bottom"), ((9, 0), "left", "center"), ((-9, 0), "right", "center"), ((0, -9), "center", "top"),
    ((7, 7), "left", "bottom"), ((-7, 7), "right", "bottom"), ((7, -7), "left", "top"), ((-7, -7), "right", "top"),
)  # fmt: skip


def _place_label(axes: Axes, text: str, point: tuple[float, float], inside: Bbox, occupied: list[Bbox]) -> bool:
    for offset, horizontal, vertical in SIDES:
        label: Annotation = axes.annotate(
            text, point, offset, textcoords="offset points", ha=horizontal, va=vertical, fontsize=11, color=MUTED
        )
        box = label.get_window_extent()
        if inside.containsx(box.x0) and inside.containsx(box.x1) and not box.count_overlaps(occupied):
            occupied.append(box)
            return True
        label.remove()
    return False


def _worst_db(outputs: Sequence[OutputParity]) -> float | None:
    """SNR of the worst output, for drawing; None if all are identical."""
    worst = worst_snr(outputs)
    return None if worst is None else _clamp_db(worst)


def _clamp_db(decibels: float) -> float:
    """Outputs with NaN are recorded as the lowest float: they are drawn a little below zero."""
    return max(decibels, -10.0)


def _shorten_name(name: str, longest: int = LONGEST) -> str:
    """Keep the end of a long name, which distinguishes nodes."""
    name = strip_control_characters(name)
    return name if len(name) <= longest else f"…{name[1 - longest :]}"
