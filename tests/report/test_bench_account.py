"""Latencies as a terminal shows them."""

import io

import msgspec
import pytest
from rich.console import Console

from deploykit.core.values import (
    Bench,
    DeviceConditions,
    GpuTimes,
    Interval,
    Latency,
    LatencyComparison,
    LoadGenSummary,
    Measurement,
    StartupTimes,
)
from deploykit.report import bench

QUIET = Latency(1, 2000, 30, 1.0, 1.1, 1.2, 1.3, 1.05, 0.05, 950.0, settled=True)
START = StartupTimes(10, 200, 5)


def measurement(threads=1, rate=None, gpu=(), **figures):
    return Measurement(msgspec.structs.replace(QUIET, **figures), 1.9, (1,), threads, rate, gpu)


def bench_record(*measurements, **named):
    whole = measurements or (measurement(),)
    return Bench(
        "resnet18", "fp16", "python", "onnxruntime 1.31.1", "model.onnx", whole, named.pop("knee", None), START,
        64 << 20, **named,
    )  # fmt: skip


def render(renderable):
    out = io.StringIO()
    Console(file=out, width=80, highlight=False, markup=False).print(renderable)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    return " ".join(out.getvalue().split())


def test_a_quiet_run_has_no_notes():
    text = render(bench.render_bench(bench_record()))
    assert "1 2000 1.000 1.100 1.200 1.300 1.900 1.050 0.050 4.8% 950.0" in text
    assert "note:" not in text


def test_the_widest_figures_fit_80_columns():
    wide = {"p50_ms": 7777.7, "p90_ms": 8888.8, "p95_ms": 9999.4, "p99_ms": 9999.4, "mean_ms": 8000.4}
    rows = [measurement(batch=1024, iterations=99999, deviation_ms=9000.4, throughput_per_s=123456.7, **wide)] * 2
    assert "8000 9000 112% 123457" in render(bench.render_bench(bench_record(*rows, knee=1024)))


@pytest.mark.parametrize(("iterations", "p999"), [(1000, "1.900"), (999, "–")])
def test_p99_9_is_shown_for_at_least_a_thousand_calls(iterations, p999):
    text = render(bench.render_bench(bench_record(measurement(iterations=iterations))))
    assert f"1.300 {p999} 1.050" in text
    assert ("no p99.9: it needs 1000 calls; give --iterations 1000" in text) == (p999 == "–")


@pytest.mark.parametrize(("deviation", "noisy"), [(0.105, False), (0.11, True)])
def test_a_coefficient_of_variation_above_a_tenth_is_called_noisy(deviation, noisy):
    text = render(bench.render_bench(bench_record(measurement(deviation_ms=deviation))))
    assert ("the machine was noisy: the coefficient of variation of single calls is 10%" in text) == noisy


@pytest.mark.parametrize("load", [{"threads": 2}, {"rate": 50.0}])
def test_concurrent_callers_are_not_called_noisy(load):
    assert "noisy" not in render(bench.render_bench(bench_record(measurement(deviation_ms=3, **load))))


def test_a_warm_up_that_did_not_settle_is_noted_once_with_its_batch():
    text = render(bench.render_bench(bench_record(measurement(), measurement(batch=4, settled=False, deviation_ms=1))))
    assert "warm-up did not settle at batch 4: the machine was busy" in text
    assert "noisy" not in text


def test_the_knee_is_marked_and_explained():
    text = render(bench.render_bench(bench_record(measurement(), measurement(batch=8), knee=8)))
    assert "8 ◂ 2000" in text
    assert "◂ knee: batch 8 is the smallest with 95 % of the best throughput" in text


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"threads": 4}, "closed loop: 4 callers, each of which calls again as soon as its last call returns"),
        ({"rate": 80.0}, "open loop: Poisson arrivals at 80 requests/s, served by 1 caller; latency counts from"),
        ({"rate": 0.5, "threads": 3}, "open loop: Poisson arrivals at 0.5 requests/s, served by 3 callers"),
    ],
)
def test_the_load_is_described(load, said):
    assert said in render(bench.render_bench(bench_record(measurement(**load))))


@pytest.mark.parametrize(("enqueue", "bound"), [(0.9, True), (0.2, False)])
def test_gpu_times_have_a_table(enqueue, bound):
    times = tuple(GpuTimes(graph, 0.1, 0.8, 0.2, enqueue) for graph in (False, True))
    text = render(bench.render_bench(bench_record(measurement(gpu=times))))
    assert f"1 no 0.100 0.800 0.200 {enqueue:.3f} 1 yes 0.100" in text
    assert ("the CPU is the bottleneck" in text) == bound


def test_the_state_of_the_machine_is_printed():
    throttled = DeviceConditions(
        "NVIDIA L4", "NVML", (1200, 2040), (6251, 6251), (41, 63.4), (30, 71.6), None, ("SW power cap",)
    )
    modes = DeviceConditions("CPU", "sysfs", power_mode="powersave")
    text = render(bench.render_bench(bench_record(conditions=(throttled, modes))))
    assert "NVIDIA L4 (NVML): 1200 to 2040 MHz, 6251 MHz memory, 41 to 63 °C, 30 to 72 W" in text
    assert "note: clocks were throttled: SW power cap" in text
    assert "CPU (sysfs): powersave" in text


def test_loadgens_figure_is_printed():
    summary = LoadGenSummary("6.0.17", "SingleStream", False, "90.0th percentile latency (ns)", 4667682.0, 459, "")
    text = render(bench.render_bench(bench_record(loadgen=summary)))
    assert "MLPerf LoadGen 6.0.17, SingleStream: 90.0th percentile latency (ns) 4667682" in text
    assert "459 queries, not valid by LoadGen's rules, which ask for ten minutes or more" in text


def render_comparison(low, estimate, high, limit=None):
    return render(
        bench.render_comparison(
            LatencyComparison(bench_record(), bench_record(), Interval(estimate, low, high), 40, limit)
        )
    )


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((1.01, 1.05, 1.09), "the second is slower, by 5.0%"),
        ((0.90, 0.92, 0.99), "the second is faster, by 8.0%"),
        ((0.99, 1.02, 1.04), "no significant difference"),
    ],
)
def test_a_ratio_is_interpreted_by_its_interval(interval, said):
    text = render_comparison(*interval)
    assert (
        f"second / first: {interval[1]:.3f} ({interval[0]:.3f} to {interval[2]:.3f}), the median of 40 rounds" in text
    )
    assert said in text


@pytest.mark.parametrize(("low", "fails"), [(1.049, False), (1.051, True)])
def test_a_limit_is_exceeded_if_the_whole_interval_is_above_it(low, fails):
    text = render_comparison(low, 1.06, 1.07, limit=1.05)
    assert ("× the second takes 1.060 times as long as the first" in text) == fails
    assert ("the limit is 1.050, and the interval is not above it" in text) == (not fails)


def test_caveats_of_both_sides_are_printed_once():
    side = bench_record(measurement(iterations=40), caveats=("both bundles were in one process",))
    text = render(bench.render_comparison(LatencyComparison(side, side, Interval(1, 0.9, 1.1), 40)))
    assert text.count("in one process") == 1
    assert text.count("it needs 1000 calls; give a longer --duration") == 1
