"""Measurements with MLCommons' LoadGen, the load generator of MLPerf, in its scenarios.

LoadGen calls from C++, where a Python exception ends the process. So exceptions are stored, nothing more is computed
until LoadGen has finished, and then they are raised. This delays them by some seconds, Ctrl-C included.
"""

from __future__ import annotations

import contextlib
import enum
import math
import queue
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from deploykit.core.errors import BackendError, InternalError, UsageError
from deploykit.core.extras import install_remedy
from deploykit.core.values import Arrays, BatchRange, LoadGenSummary, Scenario
from deploykit.evaluate.latency.clock import MONOTONIC

T = TypeVar("T")

PACKAGE: Final = "mlcommons-loadgen"

MLPERF_MIN_S: Final = 600.0
"""The duration that MLPerf's rules require; LoadGen itself accepts any."""

PROBES: Final = 3
"""Preliminary calls: LoadGen's expected latency is derived from the fastest."""

MARGIN: Final = 1.5
"""LoadGen's expectation is faster by this factor: a lack of queries ends a run early, unused ones cost nothing."""

BACKLOG_S: Final = 5.0
"""With that much work waiting a server will not catch up, and LoadGen ends."""

FIGURES: Final[dict[Scenario, str]] = {
    "SingleStream": r"\S+th percentile latency \(ns\)",
    "MultiStream": r"\S+th percentile latency \(ns\)",
    "Offline": "Samples per second",
    "Server": "Completed samples per second",
}
"""The score of each scenario, by its name in the summary."""


def run_loadgen(
    answer: Callable[[Arrays], object],
    rows: Arrays,
    batch: BatchRange,
    scenario: Scenario,
    seconds: float,
    target_qps: float | None = None,
) -> LoadGenSummary:
    """Run LoadGen in performance mode for at least so many seconds and return its summary.

    The rows of the arrays are the samples. `answer` is called with the waiting samples, up to the maximum batch; fewer
    than the minimum are padded with the last one. For Offline, `target_qps` is the expected rate, from which LoadGen
    sizes its single query; measured where None. For Server it is required: the rate of single-sample queries, which
    arrive by a Poisson process.

    BackendError where LoadGen is not installed, UsageError for Server without a rate, InternalError where the summary
    has no score. Exceptions of `answer` are raised.
    """
    if scenario == "Server" and target_qps is None:
        raise UsageError("LoadGen's scenario Server needs an arrival rate.", "Give it with --rate.")
    numbers = (seconds,) if target_qps is None else (seconds, target_qps)
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"rate and duration must be finite and above 0, not {target_qps} per s and {seconds} s")
    loadgen, version = _import_loadgen()
    system = _SystemUnderTest(loadgen, answer, rows, batch)
    settings = _create_settings(loadgen, scenario, seconds, target_qps, system)
    with tempfile.TemporaryDirectory() as folder:
        serving = system.serve_in_thread() if scenario == "Server" else contextlib.nullcontext()
        with _capture_interrupts(system.record_failure), serving:
            _start_test(loadgen, system, settings, Path(folder))
        if system.failure is not None:
            raise system.failure
        file = Path(folder) / "mlperf_log_summary.txt"
        summary = file.read_text(errors="replace") if file.is_file() else ""
    figure, value, valid = _parse_summary(summary, scenario)
    return LoadGenSummary(version, scenario, valid and seconds >= MLPERF_MIN_S, figure, value, system.queries, summary)


def _import_loadgen() -> tuple[Any, str]:
    try:
        import mlperf_loadgen
    except ImportError as error:
        what = f"MLCommons' LoadGen is not installed ({PACKAGE})."
        raise BackendError(what, install_remedy("loadgen")) from error
    return mlperf_loadgen, metadata.version(PACKAGE)


class QueueSignal(enum.Enum):
    """Signals in the queue of samples."""

    FLUSH = "no more samples"
    END = "LoadGen has finished"


class _SystemUnderTest:
    """LoadGen's system under test. The methods that LoadGen calls never raise."""

    def __init__(
        self, loadgen: ModuleType, answer: Callable[[Arrays], object], rows: Arrays, batch: BatchRange
    ) -> None:
        self._loadgen = loadgen
        self._answer = answer
        self._rows = rows
        self._batch = batch
        self._waiting: queue.SimpleQueue[Any] | None = None
        self.count = len(next(iter(rows.values())))
        self.largest = batch.maximum
        self.queries = 0
        self.failure: BaseException | None = None

    def record_failure(self, failure: BaseException) -> None:
        """Store the first failure; nothing is computed after it."""
        self.failure = self.failure or failure

    def time_samples(self, samples: int) -> float:
        """The time in seconds for so many samples, the fastest of a few calls."""
        indices = [index % self.count for index in range(samples)]
        durations = []
        for _ in range(PROBES):
            start = MONOTONIC()
            for piece in self._split_batches(indices):
                self._answer(self._select_rows(piece))
            durations.append((MONOTONIC() - start) / 1e9)
        return min(durations)

    def issue_query(self, samples: Sequence[Any]) -> None:
        """Compute a query in batches; in the Server scenario, queue it for the serving thread."""
        self.queries += 1
        if self._waiting is not None:
            for sample in samples:
                self._waiting.put(sample)
            return
        for piece in self._split_batches(samples):
            self._answer_batch(piece)

    def flush_queries(self) -> None:
        """Called by LoadGen after the last query."""
        if self._waiting is not None:
            self._waiting.put(QueueSignal.FLUSH)

    @contextlib.contextmanager
    def serve_in_thread(self) -> Iterator[None]:
        """Within the block, a thread answers the queued samples, batching those that wait."""
        self._waiting = queue.SimpleQueue()
        thread = threading.Thread(target=self._serve_queue, args=(self._waiting,), name="serving")
        thread.start()
        try:
            yield
        finally:  # after LoadGen has finished: 6.0.17 dies of SIGSEGV if a busy answering thread ends before
            self._waiting.put(QueueSignal.END)
            thread.join()

    def _serve_queue(self, waiting: queue.SimpleQueue[Any]) -> None:
        """After a failure no sample is answered before the flush: LoadGen sees the backlog grow and ends soon."""
        unanswered: list[Any] = []
        while (item := waiting.get()) is not QueueSignal.END:
            if item is QueueSignal.FLUSH:
                self._complete_samples(unanswered)
                unanswered.clear()
                continue
            samples = [item, *self._take_waiting(waiting)]
            if self.failure is None:
                self._answer_batch(samples)
            else:
                unanswered += samples

    def _take_waiting(self, waiting: queue.SimpleQueue[Any]) -> Iterator[Any]:
        """Samples that are waiting, as many as fit into a batch with one more."""
        for _ in range(self._batch.maximum - 1):
            if waiting.empty():
                return
            item = waiting.get()
            if isinstance(item, QueueSignal):
                waiting.put(item)  # nothing follows it
                return
            yield item

    def _split_batches(self, samples: Sequence[T]) -> Iterator[Sequence[T]]:
        """Split into chunks of the maximum batch."""
        for start in range(0, len(samples), self._batch.maximum):
            yield samples[start : start + self._batch.maximum]

    def _answer_batch(self, samples: Sequence[Any]) -> None:
        if self.failure is None:
            try:
                self._answer(self._select_rows([sample.index for sample in samples]))
            except BaseException as error:  # no exception may reach C++
                self.record_failure(error)
        self._complete_samples(samples)

    def _complete_samples(self, samples: Sequence[Any]) -> None:
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

    def _select_rows(self, indices: Sequence[int]) -> Arrays:
        padded = [*indices, *[indices[-1]] * (self._batch.minimum - len(indices))]
        return {name: array[padded] for name, array in self._rows.items()}


def _create_settings(
    loadgen: Any, scenario: Scenario, seconds: float, target_qps: float | None, system: _SystemUnderTest
) -> Any:
    """LoadGen's settings, with measured expectations: it generates its queries in advance."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = math.ceil(1000 * seconds)
    settings.min_query_count = 1  # LoadGen's early stopping reports whether there were enough for its percentile
    match scenario:
        case "SingleStream":
            settings.single_stream_expected_latency_ns = 1e9 * system.time_samples(1) / MARGIN
        case "MultiStream":
            settings.multi_stream_expected_latency_ns = (
                1e9 * system.time_samples(settings.multi_stream_samples_per_query) / MARGIN
            )
        case "Offline":
            largest = system.largest
            settings.offline_expected_qps = target_qps or MARGIN * largest / system.time_samples(largest)
        case "Server":
            assert target_qps is not None, "run_loadgen requires it"
            system.time_samples(1)
            settings.server_target_qps = target_qps
            settings.server_max_async_queries = math.ceil(BACKLOG_S * target_qps)
    return settings


@contextlib.contextmanager
def _capture_interrupts(fail: Callable[[BaseException], None]) -> Iterator[None]:
    """Within the block, Ctrl-C is recorded as a failure: raised where it occurs, it would reach C++."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C interrupts the main thread
        return
    before = signal.signal(signal.SIGINT, lambda *_: fail(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_test(loadgen: Any, system: _SystemUnderTest, settings: Any, folder: Path) -> None:
    log = loadgen.LogSettings()
    log.log_output.outdir = str(folder)
    log.enable_trace = False
    sut = loadgen.ConstructSUT(system.issue_query, system.flush_queries)
    qsl = loadgen.ConstructQSL(system.count, system.count, lambda _: None, lambda _: None)
    try:
        # The last argument: without it, an audit.config in the current folder would change the settings.
        loadgen.StartTestWithLogSettings(sut, qsl, settings, log, str(folder / "no audit"))
    finally:
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)


def _parse_summary(summary: str, scenario: Scenario) -> tuple[str, float, bool]:
    """The name of the score, its value, and whether LoadGen calls the result valid."""
    score = re.search(rf"^({FIGURES[scenario]})\s*:\s*(\S+)$", summary, re.MULTILINE)
    result = re.search(r"^Result is : (VALID|INVALID)$", summary, re.MULTILINE)
    try:
        if score is None or result is None:
            raise ValueError
        return score[1], float(score[2]), result[1] == "VALID"
    except ValueError as error:
        what = f"LoadGen's summary of {scenario} has no score: {' '.join(summary.split())[:300] or 'it is empty'}."
        raise InternalError(what, "Report it, with the version of mlcommons-loadgen.") from error
