"""Latency measurements as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploykit.core.values import (
    Bench,
    DeviceConditions,
    Interval,
    LatencyComparison,
    LoadGenSummary,
    Measurement,
    Runtime,
)
from deploykit.report import terminal
from deploykit.report.formatting import format_bytes

THROUGH: Final[dict[Runtime, str]] = {"python": "Python", "cpp": "the C++ library"}

ENOUGH_FOR_P999: Final = 1000
"""Calls. With fewer, no call is above the 99.9th percentile: it would be the slowest call under another name."""


def render_bench(bench: Bench) -> Group:
    """`deploykit bench`: the engine, its latency per batch size, start-up, memory and the machine's state."""
    parts: list[RenderableType] = [
        bench_heading(bench),
        *map(Text, _load_lines(bench.measurements)),
        latency_table(bench),
    ]
    if bench.knee is not None:
        parts.append(Text(f"◂ knee: batch {bench.knee} is the smallest with 95 % of the best throughput"))
    if any(measurement.gpu for measurement in bench.measurements):
        parts.append(_render_gpu_times(bench.measurements))
    parts.append(_format_start_up(bench))
    parts += map(_render_conditions, bench.conditions)
    if bench.loadgen is not None:
        parts.append(_render_loadgen(bench.loadgen))
    return Group(*parts, *map(terminal.render_note, _bench_notes(bench)))


def render_comparison(pair: LatencyComparison) -> Group:
    """`deploykit bench --compare`: both bundles, and the second's latency over the first's."""
    sides: list[RenderableType] = []
    for name, side in (("first", pair.first), ("second", pair.second)):
        sides += [Text(f"{name}: ").append_text(bench_heading(side)), latency_table(side), _format_start_up(side)]
    notes = dict.fromkeys(note for side in (pair.first, pair.second) for note in _pair_notes(side))
    verdict = Text(f"second / first: {_format_interval(pair.ratio)}, the median of {pair.rounds} rounds", "bold")
    verdict.append(f"\n  {_interpret_ratio(pair.ratio)}", style="none")
    if pair.limit is not None:
        for failure in pair.failures:
            verdict.append(f"\n  × {failure}", style="red")
        if not pair.failures:
            verdict.append(f"\n  the limit is {pair.limit:.3f}, and the interval is not above it", "green")
    return Group(*sides, verdict, *map(terminal.render_note, notes))


def bench_heading(bench: Bench) -> Text:
    """`nin_cifar10 fp32  onnxruntime 1.31.1 through Python, model.onnx`."""
    text = Text(f"{bench.model} {bench.precision}", "bold")
    return text.append(f"  {bench.library} through {THROUGH[bench.runtime]}, {bench.file}", style="none")


def latency_table(bench: Bench) -> Table:
    """A row per batch size, in milliseconds."""
    table = _figures_table(
        "batch", "", "calls", "p50 ms", "p90", "p95", "p99", "p99.9", "mean", "± ms", "CoV", "samples/s"
    )
    for measurement in bench.measurements:
        figures = measurement.latency
        slowest = _format_figure(measurement.p999_ms) if figures.iterations >= ENOUGH_FOR_P999 else "–"
        percentiles = map(_format_figure, (figures.p50_ms, figures.p90_ms, figures.p95_ms, figures.p99_ms))
        table.add_row(
            str(figures.batch),
            "◂" if figures.batch == bench.knee else "",
            str(figures.iterations),
            *percentiles,
            slowest,
            _format_figure(figures.mean_ms),
            _format_figure(figures.deviation_ms),
            f"{figures.variation:.1%}" if figures.variation < 1 else f"{figures.variation:.0%}",
            _format_figure(figures.throughput_per_s),
        )
    return table


def _load_lines(measured: Sequence[Measurement]) -> Iterator[str]:
    """The load, unless it is a single caller in a closed loop."""
    first = measured[0]
    callers = "1 caller" if first.threads == 1 else f"{first.threads} callers"
    if first.rate_per_s is not None:
        yield (
            f"open loop: Poisson arrivals at {first.rate_per_s:g} requests/s, served by {callers}; "
            "latency counts from a request's arrival"
        )
    elif first.threads > 1:
        yield f"closed loop: {callers}, each of which calls again as soon as its last call returns"


def _bench_notes(bench: Bench) -> Iterator[str]:
    """Caveats about the figures."""
    yield from _unsettled_notes(bench)
    if noisy := [measurement for measurement in bench.measurements if _is_noisy(measurement)]:
        spread = max(measurement.latency.variation for measurement in noisy)
        yield (
            f"the machine was noisy{_name_batches(noisy, bench)}: the coefficient of variation of single "
            f"calls is {spread:.0%}, so another run may give other figures"
        )
    yield from _p999_notes(bench, "give --iterations 1000")
    yield from bench.caveats


def _is_noisy(measurement: Measurement) -> bool:
    # With several callers, which wait for each other, latencies vary on the quietest machine.
    closed_loop = measurement.threads == 1 and measurement.rate_per_s is None
    return closed_loop and measurement.latency.noisy and measurement.latency.settled


def _pair_notes(side: Bench) -> Iterator[str]:
    """Caveats about one side of a comparison; the interval of the ratio shows how noisy the machine was."""
    yield from _unsettled_notes(side)
    yield from _p999_notes(side, "give a longer --duration")
    yield from side.caveats


def _unsettled_notes(bench: Bench) -> Iterator[str]:
    if unsettled := [measurement for measurement in bench.measurements if not measurement.latency.settled]:
        yield f"warm-up did not settle{_name_batches(unsettled, bench)}: the machine was busy; measure again"


def _p999_notes(bench: Bench, remedy: str) -> Iterator[str]:
    if few := [measurement for measurement in bench.measurements if measurement.latency.iterations < ENOUGH_FOR_P999]:
        yield f"no p99.9{_name_batches(few, bench)}: it needs 1000 calls; {remedy}"


def _name_batches(measurements: Sequence[Measurement], bench: Bench) -> str:
    """` at batch 1, 4`; empty if these are all batch sizes."""
    if len(measurements) == len(bench.measurements):
        return ""
    return f" at batch {', '.join(str(measurement.latency.batch) for measurement in measurements)}"


def _format_start_up(bench: Bench) -> Text:
    start = bench.start_up
    return Text(
        f"opened in {start.open_ms:.0f} ms, loaded in {start.load_ms:.0f} ms, first call {start.first_call_ms:.2f} ms, "
        f"peak memory {format_bytes(bench.peak_memory_bytes)}"
    )


def _render_gpu_times(measured: Sequence[Measurement]) -> Group:
    """Time of a call on the GPU by phase."""
    table = _figures_table("batch", "CUDA graph", "to GPU ms", "compute", "from GPU", "enqueue")
    for measurement in measured:
        for times in measurement.gpu:
            figures = map(_format_figure, (times.h2d_ms, times.compute_ms, times.d2h_ms, times.enqueue_ms))
            table.add_row(str(measurement.latency.batch), "yes" if times.cuda_graph else "no", *figures)
    if any(times.enqueue_ms > times.compute_ms for measurement in measured for times in measurement.gpu):
        return Group(
            table, terminal.render_note("enqueue takes longer than compute: the CPU is the bottleneck, not the GPU")
        )
    return Group(table)


def _render_conditions(state: DeviceConditions) -> Group:
    """`NVIDIA L4 (NVML): 1200 to 2040 MHz, 41 to 63 °C, 30 to 71 W`"""
    ranges = (
        (state.clock_mhz, "MHz"), (state.memory_clock_mhz, "MHz memory"), (state.temperature_c, "°C"),
        (state.power_w, "W"),
    )  # fmt: skip
    parts = [_format_range(span, unit) for span, unit in ranges if span is not None]
    parts += [state.power_mode] if state.power_mode is not None else []
    summary = Text(f"{state.device} ({state.source}): {', '.join(parts) or 'reports nothing'}")
    return Group(summary, *(terminal.render_note(f"clocks were throttled: {reason}") for reason in state.throttled))


def _format_range(span: tuple[float, float], unit: str) -> str:
    low, high = (f"{end:.0f}" for end in span)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _render_loadgen(loadgen: LoadGenSummary) -> Text:
    """LoadGen's own figure and whether its rules accept the run."""
    rules = "valid" if loadgen.valid else "not valid"
    duration = "" if loadgen.valid else ", which ask for ten minutes or more"
    queries = "1 query" if loadgen.queries == 1 else f"{loadgen.queries} queries"
    return Text(
        f"MLPerf LoadGen {loadgen.version}, {loadgen.scenario}: {loadgen.figure} {loadgen.value:.10g}\n"
        f"  {queries}, {rules} by LoadGen's rules{duration}"
    )


def _format_interval(interval: Interval) -> str:
    """`1.052 (1.048 to 1.056)`."""
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _interpret_ratio(interval: Interval) -> str:
    if interval.low > 1:
        return f"the second is slower, by {interval.estimate - 1:.1%}"
    if interval.high < 1:
        return f"the second is faster, by {1 - interval.estimate:.1%}"
    return "no significant difference: the interval contains 1"


def _format_figure(figure: float) -> str:
    """Four digits, so that twelve columns fit: 0.123, 12.34, 123.4, 1234."""
    decimals = next((3 - power for power in range(3) if figure < 10 ** (power + 1)), 0)
    return f"{figure:.{decimals}f}"


def _figures_table(*columns: str) -> Table:
    return terminal.create_table(*columns, right=columns)
