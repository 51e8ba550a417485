"""Latency: durations of calls, the load they were measured under, and the state of the device."""

from __future__ import annotations

from typing import Literal

from deploykit.core.values.base import Precision, Runtime, Value

NOISY_VARIATION: float = 0.1
"""Coefficient of variation above which a measurement is called noisy: other processes ran, or clocks changed."""


class Latency(Value, frozen=True):
    """Wall time per call, with inputs and outputs in host memory."""

    batch: int
    iterations: int
    warmup_iterations: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    deviation_ms: float
    throughput_per_s: float
    """Samples per second: batch · iterations / elapsed time."""
    settled: bool
    """Whether warm-up ended because successive windows agreed."""

    @property
    def variation(self) -> float:
        """Coefficient of variation: standard deviation over mean."""
        return self.deviation_ms / self.mean_ms if self.mean_ms > 0 else 0.0

    @property
    def noisy(self) -> bool:
        """Whether the measurement is too unstable to be repeatable."""
        return not self.settled or self.variation > NOISY_VARIATION


class GpuTimes(Value, frozen=True):
    """GPU times per call: medians measured by CUDA events; enqueue time by the host's clock."""

    cuda_graph: bool
    """Whether the work was captured as a CUDA graph and launched at once."""
    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float
    """Host time to enqueue the work; if it exceeds `compute_ms`, the call is limited by the host."""


class Measurement(Value, frozen=True):
    """Latency of one engine under one load, with the duration of every call."""

    latency: Latency
    """With `rate_per_s`, each latency starts when the request is due, so that queueing time is included."""
    p999_ms: float
    durations_ns: tuple[int, ...]
    """Durations in the order in which the calls started, or were due."""
    threads: int = 1
    """Number of concurrent callers."""
    rate_per_s: float | None = None
    """Open-loop Poisson arrival rate in requests per second; None: closed loop."""
    gpu: tuple[GpuTimes, ...] = ()
    """GPU times without and with CUDA graphs; empty on a CPU."""


class StartupTimes(Value, frozen=True):
    """Time until the first output, without the start of the interpreter."""

    open_ms: float
    """Time to read the manifest and verify every file's checksum."""
    load_ms: float
    """Time to load the engine; in Python including the import of its library."""
    first_call_ms: float
    """Duration of the first call."""


class DeviceConditions(Value, frozen=True):
    """State of the device during a measurement; None: not reported by the device."""

    device: str
    """`CPU`, or the GPU's product name."""
    source: str
    """Source of the readings, such as `NVML` or `sysfs`."""
    clock_mhz: tuple[float, float] | None = None
    """Lowest and highest reading."""
    memory_clock_mhz: tuple[float, float] | None = None
    temperature_c: tuple[float, float] | None = None
    power_w: tuple[float, float] | None = None
    power_mode: str | None = None
    """A Jetson's `nvpmodel` mode, or the CPU frequency governor."""
    throttled: tuple[str, ...] = ()
    """Reasons for clock throttling, as the device reports them."""


Scenario = Literal["SingleStream", "MultiStream", "Offline", "Server"]
"""MLPerf's names of query arrival patterns."""


class LoadGenSummary(Value, frozen=True):
    """Result of MLCommons' LoadGen on the same engine."""

    version: str
    scenario: Scenario
    valid: bool
    """Whether the run is valid by LoadGen's rules, which require ten minutes."""
    figure: str
    """Name of the scenario's score in LoadGen's terms."""
    value: float
    queries: int
    summary: str
    """Full text of `mlperf_log_summary.txt`."""


class Bench(Value, frozen=True):
    """Benchmark of one engine of a bundle on this machine."""

    model: str
    precision: Precision
    runtime: Runtime
    library: str
    """Name and version of the inference library."""
    file: str
    """Path of the engine in the bundle."""
    measurements: tuple[Measurement, ...]
    """One measurement per batch size, or a single one under load."""
    knee: int | None
    """Smallest batch size that reaches 95 % of the highest throughput; None: only one batch size was measured."""
    start_up: StartupTimes
    peak_memory_bytes: int
    """Peak resident set size of the process, including the interpreter and its packages."""
    conditions: tuple[DeviceConditions, ...] = ()
    loadgen: LoadGenSummary | None = None
    caveats: tuple[str, ...] = ()
    """Restrictions that apply to the figures."""


class Interval(Value, frozen=True):
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float


class Fp32Comparison(Value, frozen=True):
    """FP32 of the same graph on the same backend, timed in alternation with the engine at the same batch size."""

    p50_ms: float
    """FP32's median latency."""
    engine_p50_ms: float
    """The engine's median latency in the same blocks of calls."""
    speedup: Interval
    """Median over rounds of FP32's median latency over the engine's; below 1: the engine is slower than FP32."""
    rounds: int
    bytes: int
    """Size of FP32's engine file, with the external data of a graph."""
    size_ratio: float
    """Size of the engine over that of FP32, each with its external data."""

    @property
    def slower(self) -> bool:
        """Whether the engine is slower than FP32: the whole interval lies below 1."""
        return self.speedup.high < 1


class LatencyComparison(Value, frozen=True):
    """Two bundles measured in alternating blocks of calls, so that disturbances affect both alike."""

    first: Bench
    second: Bench
    ratio: Interval
    """Median over rounds of the second's median latency over the first's; above 1: the second is slower."""
    rounds: int
    limit: float | None = None
    """Largest ratio allowed; None: no limit."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Exceeded limit, as a sentence; it counts as exceeded only if the whole interval lies above it."""
        if self.limit is None or self.ratio.low <= self.limit:
            return ()
        return (
            f"the second takes {self.ratio.estimate:.3f} times as long as the first "
            f"({self.ratio.low:.3f} to {self.ratio.high:.3f}), and {self.limit:.3f} is allowed",
        )
