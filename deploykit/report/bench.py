"""What was measured, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploykit.core.values import Bench, Comparison, Conditions, Interval, LoadGenSummary, Measured, Runtime
from deploykit.report import terminal

THROUGH: Final[dict[Runtime, str]] = {"python": "Python", "cpp": "the C++ library"}

ENOUGH_FOR_P999: Final = 1000
"""Calls. Of fewer, not even one is above the 99.9th percentile: it would be the slowest call by another name."""


def account(found: Bench) -> Group:
    """Which engine through what, its latency, and what it took until the first answer was there."""
    parts: list[Text | Table | Group] = [head(found), *map(Text, _loads(found.measured)), latencies(found)]
    if found.knee is not None:
        parts.append(Text(f"◂ the knee: batch {found.knee} is the smallest with 95 % of the best throughput"))
    if any(each.gpu for each in found.measured):
        parts.append(_gpu(found.measured))
    parts.append(_start(found))
    parts += map(_condition, found.conditions)
    if found.loadgen is not None:
        parts.append(_loadgen(found.loadgen))
    return Group(*parts, *map(terminal.note, _notes(found)))


def comparison(pair: Comparison) -> Group:
    """Both sides, and how many times as long the second takes."""
    sides: list[Text | Table] = []
    for name, side in (("first", pair.first), ("second", pair.second)):
        sides += [Text(f"{name}: ").append_text(head(side)), latencies(side), _start(side)]
    notes = dict.fromkeys(note for side in (pair.first, pair.second) for note in _pair_notes(side))
    verdict = Text(f"second / first: {_spread(pair.ratio)}, the median of {pair.rounds} rounds", "bold")
    verdict.append(f"\n  {_meaning(pair.ratio)}", style="none")
    if pair.limit is not None:
        for failure in pair.failures:
            verdict.append(f"\n  × {failure}", style="red")
        if not pair.failures:
            verdict.append(f"\n  {pair.limit:.3f} is allowed, and the interval does not lie above it", "green")
    return Group(*sides, verdict, *map(terminal.note, notes))


def head(found: Bench) -> Text:
    """`nin_cifar10 fp32  onnxruntime 1.31.1 through Python, model.onnx`"""
    text = Text(f"{found.model} {found.precision}", "bold")
    return text.append(f"  {found.library} through {THROUGH[found.runtime]}, {found.file}", style="none")


def latencies(found: Bench) -> Table:
    """A row per batch size, in milliseconds."""
    table = _table("batch", "", "calls", "p50 ms", "p90", "p95", "p99", "p99.9", "mean", "± ms", "CoV", "samples/s")
    for each in found.measured:
        figures = each.latency
        slowest = _digits(each.p999_ms) if figures.iterations >= ENOUGH_FOR_P999 else "–"
        percentiles = map(_digits, (figures.p50_ms, figures.p90_ms, figures.p95_ms, figures.p99_ms))
        table.add_row(
            str(figures.batch),
            "◂" if figures.batch == found.knee else "",
            str(figures.iterations),
            *percentiles,
            slowest,
            _digits(figures.mean_ms),
            _digits(figures.deviation_ms),
            f"{figures.variation:.1%}" if figures.variation < 1 else f"{figures.variation:.0%}",
            _digits(figures.throughput_per_s),
        )
    return table


def _loads(measured: Sequence[Measured]) -> Iterator[str]:
    """How calls came; nothing of one caller alone."""
    first = measured[0]
    callers = "1 caller" if first.threads == 1 else f"{first.threads} callers"
    if first.rate_per_s is not None:
        yield (
            f"open loop: {first.rate_per_s:g} calls due per second at random, served by {callers}; a latency\n"
            "counts from the moment at which the call was due"
        )
    elif first.threads > 1:
        yield f"closed loop: {callers} at once, each calling again when it is answered"


def _notes(found: Bench) -> Iterator[str]:
    """What a reader must know beside the figures."""
    yield from _restless(found)
    # Of callers that wait for each other, latencies differ on the quietest machine.
    noisy = [each for each in found.measured if each.threads == 1 and each.rate_per_s is None and each.latency.noisy]
    if noisy := [each for each in noisy if each.latency.settled]:
        spread = max(each.latency.variation for each in noisy)
        yield (
            f"the machine was noisy{_at(noisy, found)}: single calls differ from the mean by {spread:.0%} (the "
            f"coefficient of variation), so that another run may give other figures"
        )
    yield from _no_p999(found, "which --iterations 1000 makes")
    yield from found.statements


def _pair_notes(side: Bench) -> Iterator[str]:
    """What a reader must know beside one of two sides; how noisy the machine was, their interval tells."""
    yield from _restless(side)
    yield from _no_p999(side, "of which a longer --duration makes more")
    yield from side.statements


def _restless(found: Bench) -> Iterator[str]:
    if restless := [each for each in found.measured if not each.latency.settled]:
        yield f"warm-up never settled{_at(restless, found)}: the machine was busy, and these figures are of that moment"


def _no_p999(found: Bench, remedy: str) -> Iterator[str]:
    if few := [each for each in found.measured if each.latency.iterations < ENOUGH_FOR_P999]:
        yield f"no p99.9{_at(few, found)}: it needs 1000 calls, {remedy}"


def _at(some: Sequence[Measured], found: Bench) -> str:
    """` at batch 1, 4`; nothing where it is all of them."""
    if len(some) == len(found.measured):
        return ""
    return f" at batch {', '.join(str(each.latency.batch) for each in some)}"


def _start(found: Bench) -> Text:
    start = found.start_up
    return Text(
        f"opened in {start.open_ms:.0f} ms, loaded in {start.load_ms:.0f} ms, first call {start.first_ms:.2f} ms, "
        f"peak memory {terminal.size(found.peak_memory_bytes)}"
    )


def _gpu(measured: Sequence[Measured]) -> Group:
    """Where a call's time goes on the GPU."""
    table = _table("batch", "CUDA graph", "to GPU ms", "compute", "from GPU", "enqueue")
    for each in measured:
        for times in each.gpu:
            figures = map(_digits, (times.h2d_ms, times.compute_ms, times.d2h_ms, times.enqueue_ms))
            table.add_row(str(each.latency.batch), "yes" if times.cuda_graph else "no", *figures)
    if any(times.enqueue_ms > times.compute_ms for each in measured for times in each.gpu):
        return Group(table, terminal.note("where enqueue is above compute, the processor is what limits, not the GPU"))
    return Group(table)


def _condition(state: Conditions) -> Text:
    """`NVIDIA L4 (NVML): 1200 to 2040 MHz, 41 to 63 °C, 30 to 71 W`"""
    ranges = (
        (state.clock_mhz, "MHz"), (state.memory_clock_mhz, "MHz memory"), (state.temperature_c, "°C"),
        (state.power_w, "W"),
    )  # fmt: skip
    parts = [_range(span, unit) for span, unit in ranges if span is not None]
    parts += [state.power_mode] if state.power_mode is not None else []
    text = Text(f"{state.device} ({state.source}): {', '.join(parts) or 'it tells nothing'}")
    for reason in state.throttled:
        text.append("\n").append_text(terminal.note(f"clocks were held back: {reason}"))
    return text


def _range(span: tuple[float, float], unit: str) -> str:
    low, high = (f"{end:.0f}" for end in span)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _loadgen(found: LoadGenSummary) -> Text:
    """Its score, in its own words."""
    valid = "valid by its own rules" if found.valid else "not valid by its own rules, which ask for ten minutes first"
    queries = "1 query" if found.queries == 1 else f"{found.queries} queries"
    return Text(
        f"MLPerf LoadGen {found.version}, {found.scenario}: {found.figure} {found.value:.10g}\n  {queries}, {valid}"
    )


def _spread(interval: Interval) -> str:
    """`1.052 (1.048 to 1.056)`"""
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _meaning(interval: Interval) -> str:
    if interval.low > 1:
        return f"the second is slower, by {interval.estimate - 1:.1%}"
    if interval.high < 1:
        return f"the second is faster, by {1 - interval.estimate:.1%}"
    return "no difference that these rounds can show: the interval holds 1"


def _digits(figure: float) -> str:
    """Four of them, so that twelve columns fit: 0.123, 12.34, 123.4, 1234."""
    decimals = next((3 - power for power in range(3) if figure < 10 ** (power + 1)), 0)
    return f"{figure:.{decimals}f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
