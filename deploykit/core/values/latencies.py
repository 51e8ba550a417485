"""Latencies: how long calls took, under which load, and in what state the machine was."""

from __future__ import annotations

from typing import Literal

from deploykit.core.values.words import Precision, Runtime, Value

NOISY: float = 0.1
"""A coefficient of variation above this says that something else ran, or that clocks moved, while it was measured."""


class Latency(Value, frozen=True):
    """Wall time of one call, inputs and outputs in host memory."""

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
    """Images per second: batch · iterations / elapsed."""
    settled: bool
    """Whether warm-up ended because the last windows agreed."""

    @property
    def variation(self) -> float:
        """The coefficient of variation: deviation over mean."""
        return self.deviation_ms / self.mean_ms if self.mean_ms > 0 else 0.0

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy for its figures to be repeated."""
        return not self.settled or self.variation > NOISY


class GpuTimes(Value, frozen=True):
    """Where a call's time goes on a GPU: medians by CUDA events; enqueueing by the host's clock."""

    cuda_graph: bool
    """Whether the work was captured once and launched as one."""
    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float
    """Of the host, to hand the work to the GPU: where this exceeds `compute_ms`, the host is what is measured."""


class Measured(Value, frozen=True):
    """Calls of one kind on one engine: the figures, and every duration that they were drawn from."""

    latency: Latency
    """With a rate: from the moment at which the call was due, so that one that waits for the one before counts too."""
    p999_ms: float
    durations_ns: tuple[int, ...]
    """In the order in which the calls began, or were due."""
    threads: int = 1
    """Callers at once."""
    rate_per_s: float | None = None
    """Calls per second that were due, by a Poisson process; None: each caller calls again as soon as it is answered."""
    gpu: tuple[GpuTimes, ...] = ()
    """On a GPU: without CUDA graphs, and with them."""


class StartUp(Value, frozen=True):
    """How long it takes until the first answer is there, from the start of our own code on."""

    open_ms: float
    """To read the manifest and check every file's digest."""
    load_ms: float
    """To load the engine; in Python, to import its library too."""
    first_ms: float
    """Of the first call."""


class Conditions(Value, frozen=True):
    """The state of a device while it was measured; None: it does not tell."""

    device: str
    """`CPU`, or the GPU's own name."""
    source: str
    """What told it, such as `NVML` or `sysfs`."""
    clock_mhz: tuple[float, float] | None = None
    """Lowest and highest seen."""
    memory_clock_mhz: tuple[float, float] | None = None
    temperature_c: tuple[float, float] | None = None
    power_w: tuple[float, float] | None = None
    power_mode: str | None = None
    """A Jetson's `nvpmodel`, or the governor of a CPU's clock."""
    throttled: tuple[str, ...] = ()
    """Why clocks were held back, in the device's own words."""


Scenario = Literal["SingleStream", "MultiStream", "Offline", "Server"]
"""MLPerf's words for how queries come."""


class LoadGenSummary(Value, frozen=True):
    """What MLCommons' LoadGen says of a run over the same engine."""

    version: str
    scenario: Scenario
    valid: bool
    """By LoadGen's own rules, which ask for ten minutes."""
    figure: str
    """What the scenario is scored by, in LoadGen's words."""
    value: float
    queries: int
    summary: str
    """`mlperf_log_summary.txt`, whole."""


class Bench(Value, frozen=True):
    """One engine of a bundle, measured on this machine."""

    model: str
    precision: Precision
    runtime: Runtime
    library: str
    """Name and version of what computed."""
    file: str
    """The engine within the bundle."""
    measured: tuple[Measured, ...]
    """A measurement per batch size, or the one under load."""
    knee: int | None
    """Of several batch sizes, the smallest that gives 95 % of the best throughput."""
    start_up: StartUp
    peak_memory_bytes: int
    """The largest resident set of the process that ran it, the interpreter and its packages among it."""
    conditions: tuple[Conditions, ...] = ()
    loadgen: LoadGenSummary | None = None
    statements: tuple[str, ...] = ()
    """What a reader must know beside the figures."""


class Interval(Value, frozen=True):
    """An estimate and the 95 % confidence interval around it."""

    estimate: float
    low: float
    high: float


class Comparison(Value, frozen=True):
    """Two bundles measured in turn, a block of calls each, so that whatever slows the machine slows both."""

    first: Bench
    second: Bench
    ratio: Interval
    """The second's median over the first's in the same round, median over rounds: above 1, the second is slower."""
    rounds: int
    limit: float | None = None
    """The ratio that the second may have."""

    @property
    def failures(self) -> tuple[str, ...]:
        """A second that is slower than it may be, as a sentence. The whole interval must lie above the limit."""
        if self.limit is None or self.ratio.low <= self.limit:
            return ()
        return (
            f"the second takes {self.ratio.estimate:.3f} times as long as the first "
            f"({self.ratio.low:.3f} to {self.ratio.high:.3f}), and {self.limit:.3f} is allowed",
        )
