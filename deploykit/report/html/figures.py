"""What a report draws: one function per picture, from values to an element of the page."""

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
    Measured,
    OutputParity,
    Precision,
    PrecisionReceipt,
    Stages,
)
from deploykit.report.bench import ENOUGH_FOR_P999
from deploykit.report.bundle_document import Row, worst_snr
from deploykit.report.depth import called
from deploykit.report.html.svg import BLUE, GREEN, GREY, INK, LINE, MUTED, ORANGE, PAPER, PURPLE, drawing, plain
from deploykit.report.words import decibels, milliseconds, percent, power, precise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

WORST: Final = 10
"""Layers that are drawn; the table beside has more."""

LONGEST: Final = 48
"""Characters of a name that a drawing has room for."""

ARITHMETIC: Final[dict[Arithmetic, str]] = {"int8": GREEN, "fp16": BLUE, "bf16": PURPLE, "fp32": GREY}

PRECISION: Final[dict[Precision, tuple[str, str]]] = {
    "fp32": (GREY, "o"), "fp16": (BLUE, "s"), "bf16": (PURPLE, "D"), "int8": (GREEN, "^"), "int8-fp16": (ORANGE, "v"),
}  # fmt: skip
"""Colour and shape of a point: neither alone tells precisions apart for every reader."""


def stages(found: Stages) -> Markup | None:
    """SNR of each stage's own error, and of all so far; None where nothing differs anywhere."""
    seen = [stage for stage in found.stages if stage.unchecked is None and stage.outputs]
    known = [value for stage in seen for outputs in (stage.own, stage.outputs) if (value := _db(outputs)) is not None]
    if not known:
        return None
    end = 1.1 * max(known)  # bars of what is identical go on beyond it

    def draw(axes: Axes) -> None:
        for place, stage in enumerate(seen):
            own, total = _db(stage.own), _db(stage.outputs)
            axes.barh(place, end if own is None else own, 0.5, color=ORANGE if stage.failures else BLUE, zorder=2)
            if stage.tolerance is not None:
                bound = stage.tolerance.min_snr_db
                axes.plot([bound, bound], [place - 0.25, place + 0.38], color=INK, linewidth=2, zorder=4)
            if total is not None:
                axes.plot(total, place, "o", markeredgecolor=INK, markerfacecolor=PAPER, zorder=5)
            said = f"{called(stage)}: {decibels(own)}"
            axes.annotate(said, (0, place - 0.3), (0, 1), textcoords="offset points", va="bottom")
        axes.set(ylim=(len(seen) - 0.5, -0.8), yticks=[], xlim=(0, end), xlabel="SNR, dB: more is better")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    parts = ", ".join(f"{called(stage)} {decibels(_db(stage.own))}" for stage in seen)
    return drawing("stages", f"SNR that each stage leaves: {parts}", 56 + 44 * len(seen), draw)


def layers(found: LayerErrors) -> Markup | None:
    """The layers that add most, as bars; None where none adds any."""
    worst = [layer for layer in found.layers if layer.added > 0][:WORST]
    if not worst:
        return None

    def draw(axes: Axes) -> None:
        axes.barh(range(len(worst)), [layer.added for layer in worst], 0.45, color=BLUE)
        for place, layer in enumerate(worst):
            name = _short(layer.module or layer.node)
            axes.annotate(name, (0, place - 0.24), (0, 1), textcoords="offset points", va="bottom", fontsize=11)
        axes.set(ylim=(len(worst) - 0.6, -0.9), yticks=[], xlabel="noise added, as a share of the signal's power")
        axes.xaxis.set_major_formatter(lambda value, _: "0" if value == 0 else f"{value:.1e}")
        axes.locator_params(axis="x", nbins=4)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    first = worst[0]
    said = f"Noise that layers add, the worst {len(worst)}: {first.module or first.node} adds {power(first.added)}"
    return drawing("layers", said, 56 + 36 * len(worst), draw)


def latency(found: Measured, name: str) -> Markup | None:
    """How often calls took how long, with the percentiles marked; None where durations were not kept."""
    figures = found.latency
    if not found.durations_ns:
        return None
    durations = [duration / 1e6 for duration in found.durations_ns]
    far = max(1.1 * figures.p95_ms, 2.5 * figures.p50_ms)  # with stalls beyond, the rest would be pressed flat
    seen = [duration for duration in durations if duration <= far]
    end = max(seen)
    marks = {"p50": figures.p50_ms, "p90": figures.p90_ms, "p99": figures.p99_ms}
    if figures.iterations >= ENOUGH_FOR_P999:
        marks["p99.9"] = found.p999_ms

    def draw(axes: Axes) -> None:
        axes.hist(seen, bins=min(60, max(10, len(seen) // 8)), color=BLUE)
        highest = axes.get_ylim()[1]
        for row, (mark, value) in enumerate(marks.items()):
            height = highest * (1.42 - 0.11 * row)
            said, place = f"{mark} {milliseconds(value)}", min(value, end)
            if value <= end:
                axes.plot([value, value], [0, height], color=INK, linewidth=1, linestyle=(0, (4, 2)))
            else:
                said = f"{said} →"
            side = "left" if place < (min(seen) + end) / 2 else "right"
            shift = (4 if side == "left" else -4, 0)
            axes.annotate(said, (place, height), shift, textcoords="offset points", va="top", ha=side, fontsize=11)
        axes.set(ylim=(0, highest * 1.45), ylabel="calls", xlabel=f"ms per call of batch {figures.batch}")
        axes.grid(axis="x", visible=False)

    parts = ", ".join(f"{mark} {milliseconds(value)}" for mark, value in marks.items())
    said = (
        f"Histogram of {len(seen)} of {len(durations)} calls of batch {figures.batch}, those up to {milliseconds(end)}"
    )
    return drawing(name, f"{said}: {parts}", 260, draw)


def sweep(found: Bench, name: str) -> Markup | None:
    """Samples per second over the batch size, the knee marked; None for a single batch size."""
    points = sorted((each.latency.batch, each.latency.throughput_per_s) for each in found.measured)
    batches = [batch for batch, _ in points]
    if len(set(batches)) < 2:
        return None

    def draw(axes: Axes) -> None:
        axes.plot(batches, [rate for _, rate in points], color=BLUE, marker="o")
        for batch, rate in points:
            if batch == found.knee:
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
    knee = "" if found.knee is None else f"; the knee is at batch {found.knee}"
    return drawing(name, f"Samples per second: {parts}{knee}", 240, draw)


def share(receipt: PrecisionReceipt) -> Markup | None:
    """Multiply-accumulates by the arithmetic that computed them, as one bar; its first and last part are named. None of
    a network without any.
    """
    shares = sorted(receipt.shares.items(), key=lambda item: (-item[1], item[0]))
    if not shares:
        return None

    def draw(axes: Axes) -> None:
        ends = list(itertools.accumulate((value for _, value in shares), initial=0.0))
        for (arithmetic, value), left in zip(shares, ends, strict=False):
            axes.barh(0, value, 0.5, left=left, color=ARITHMETIC[arithmetic], edgecolor=PAPER, linewidth=1.5)
        for (arithmetic, value), side in zip((shares[0], *shares[1:][-1:]), (0, 1), strict=False):
            said, place = f"{arithmetic.upper()} {percent(value)}", "right" if side else "left"
            axes.annotate(said, (side, -0.3), (0, -4), textcoords="offset points", ha=place, va="top")
        axes.set(xlim=(0, 1), ylim=(-0.9, 0.3), yticks=[], xticks=[])
        axes.set_frame_on(False)
        axes.grid(visible=False)

    parts = ", ".join(f"{percent(value)} {arithmetic.upper()}" for arithmetic, value in shares)
    return drawing("share", f"Multiply-accumulates by arithmetic: {parts}", 72, draw)


def convergence(receipt: CalibrationReceipt) -> Markup | None:
    """How far thresholds of the first samples were from the final ones; None where that was not seen twice."""
    found = receipt.convergence
    if len(found) < 2:
        return None
    samples = [step.samples for step in found]

    def draw(axes: Axes) -> None:
        for label, values, colour, marker in (
            ("worst tensor", [100 * step.worst for step in found], ORANGE, "s"),
            ("median tensor", [100 * step.median for step in found], BLUE, "o"),
        ):
            axes.plot(samples, values, color=colour, marker=marker)
            axes.annotate(label, (samples[0], values[0]), (8, 4), textcoords="offset points", va="bottom")
        axes.set_xscale("log", base=2)
        axes.set_xticks(samples, [str(count) for count in samples])
        axes.set_xticks([], minor=True)
        axes.set(xlabel=f"of {receipt.data.count} samples, the first", ylabel="% from the final range")
        axes.set_ylim(0, 115 * max(step.worst for step in found) or 1)
        axes.margins(x=0.1)

    parts = ", ".join(f"{step.worst:.1%} and {step.median:.1%} after {step.samples}" for step in found)
    return drawing("convergence", f"Worst and median distance from the final thresholds: {parts} samples", 240, draw)


def budget(found: Budget) -> Markup | None:
    """The way to a graph within its budget; None where no layer had to come out."""
    if not found.steps:
        return None
    values = [found.start, *(step.after for step in found.steps)]

    def draw(axes: Axes) -> None:
        axes.plot(range(len(values)), values, color=BLUE, marker="o")
        axes.axhline(found.bound, color=ORANGE, linestyle=(0, (5, 3)), linewidth=1.5)
        axes.annotate(f"bound {found.bound:g}", (0, found.bound), (0, 4), textcoords="offset points", va="bottom")
        unit = "top-1 drop, points" if found.measure == "top-1 drop" else "SNR, dB"
        axes.set(xlabel="layers taken out of INT8", ylabel=unit)
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.08, y=0.15)

    said = (
        f"{found.measure} with layers out of INT8: {found.start:.2f} with none, {found.end:.2f} with {len(found.steps)}"
    )
    return drawing("budget", f"{said}; the bound is {found.bound:g}", 220, draw)


def pareto(rows: Sequence[Row]) -> Markup | None:
    """Faithfulness over latency: accuracy where every row has it, else SNR; those that passed and that
    none that passed beats are joined. None where fewer than two rows have both figures.
    """
    timed = [row for row in rows if row.latency is not None]
    by_accuracy = all(row.accuracy is not None for row in timed)
    highest = max((row.snr_db for row in timed if row.snr_db is not None), default=100.0)
    points = [point for row in timed if (point := _point(row, by_accuracy, highest)) is not None]
    if len(points) < 2:
        return None
    what = "top-1 accuracy, %" if by_accuracy else "SNR, dB"

    def draw(axes: Axes) -> None:
        front = _front([(x, y) for x, y, row in points if row.passed])
        axes.plot([x for x, _ in front], [y for _, y in front], color=LINE, linewidth=3, zorder=1)
        for precision in dict.fromkeys(row.precision for _, _, row in points):
            colour, marker = PRECISION[precision]
            own = [(x, y) for x, y, row in points if row.precision == precision]
            axes.plot(*zip(*own, strict=True), marker, color=colour, markersize=8, label=precise(precision), zorder=3)
        times = [x for x, _, _ in points]
        if max(times) > 8 * min(times):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="p50 latency, ms: left is better", ylabel=f"{what}: up is better")
        axes.margins(x=0.14, y=0.16)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=5, handletextpad=0.1)
        _label(axes, points)

    parts = "; ".join(f"{row.number} {row.bundle} {row.backend}: {x:.2f} ms, {y:.1f}" for x, y, row in points)
    return drawing("pareto", f"{what} over p50 latency of {len(points)} engines: {parts}", 290, draw)


def _point(row: Row, by_accuracy: bool, highest: float) -> tuple[float, float, Row] | None:
    """Where a row stands. Of decibels, identical answers have infinitely many: they stand at the upper edge."""
    assert row.latency is not None
    if by_accuracy:
        assert row.accuracy is not None
        return row.latency.p50_ms, 100 * row.accuracy.candidate, row
    decibels = highest + 10 if row.identical else row.snr_db
    return None if decibels is None else (row.latency.p50_ms, _drawable(decibels), row)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other point beats in both, from the fastest on."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _label(axes: Axes, points: Sequence[tuple[float, float, Row]]) -> None:
    """Each point gets its bundle's name, or the number of its row in the table, on the first side where it is free."""
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # only then is it known where points come to lie
    inside = axes.get_window_extent()
    marks = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in marks]
    for x, y, row in points:
        for text in (f"{row.number} {_short(row.bundle, 22)}", str(row.number)):
            if _placed(axes, text, (x, y), inside, taken):
                break


SIDES: Final = (
    ((0, 9), "center", "bottom"), ((9, 0), "left", "center"), ((-9, 0), "right", "center"), ((0, -9), "center", "top"),
    ((7, 7), "left", "bottom"), ((-7, 7), "right", "bottom"), ((7, -7), "left", "top"), ((-7, -7), "right", "top"),
)  # fmt: skip


def _placed(axes: Axes, text: str, point: tuple[float, float], inside: Bbox, taken: list[Bbox]) -> bool:
    for offset, horizontal, vertical in SIDES:
        made: Annotation = axes.annotate(
            text, point, offset, textcoords="offset points", ha=horizontal, va=vertical, fontsize=11, color=MUTED
        )
        box = made.get_window_extent()
        if inside.containsx(box.x0) and inside.containsx(box.x1) and not box.count_overlaps(taken):
            taken.append(box)
            return True
        made.remove()
    return False


def _db(outputs: Sequence[OutputParity]) -> float | None:
    """The worst output's; None where all are identical."""
    worst = worst_snr(outputs)
    return None if worst is None else _drawable(worst)


def _drawable(decibels: float) -> float:
    """Answers that are not numbers at all are recorded as the lowest figure there is: they end a little below zero."""
    return max(decibels, -10.0)


def _short(name: str, longest: int = LONGEST) -> str:
    """The end of a long name: what tells nodes apart stands there."""
    name = plain(name)
    return name if len(name) <= longest else f"…{name[1 - longest :]}"
