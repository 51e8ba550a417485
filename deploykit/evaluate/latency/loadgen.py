"""The same engine under MLCommons' own LoadGen, the load generator of MLPerf, for those who want its scenarios.

LoadGen asks from C++, where an exception of Python's ends the process. So none gets there: it is kept, nothing is
computed any more until LoadGen is through, and then it is raised. That takes some seconds, of Ctrl-C too.
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
from deploykit.core.values import Arrays, BatchRange, LoadGenSummary, Scenario
from deploykit.evaluate.latency.clock import MONOTONIC

T = TypeVar("T")

PACKAGE: Final = "mlcommons-loadgen"

OFFICIAL_S: Final = 600.0
"""The duration that MLPerf's rules ask for; LoadGen takes any for good that it was given."""

PROBES: Final = 3
"""Calls before, by whose fastest LoadGen is told what to expect."""

MARGIN: Final = 1.5
"""So much faster than that it is told: queries that run out end a run before its time, those left over cost nothing."""

BACKLOG_S: Final = 5.0
"""A server that is behind by that much work will not catch up, and LoadGen ends."""

FIGURES: Final[dict[Scenario, str]] = {
    "SingleStream": r"\S+th percentile latency \(ns\)",
    "MultiStream": r"\S+th percentile latency \(ns\)",
    "Offline": "Samples per second",
    "Server": "Completed samples per second",
}
"""What each scenario is scored by, as the summary calls it."""


def run(
    answer: Callable[[Arrays], object],
    rows: Arrays,
    batch: BatchRange,
    scenario: Scenario,
    seconds: float,
    target_qps: float | None = None,
) -> LoadGenSummary:
    """What LoadGen says of `answer` after at least so many seconds, in performance mode.

    Its samples are the rows of the arrays. `answer` is called with as many as wait, up to the largest batch; too few
    for the smallest are filled up with the last one. Offline, `target_qps` is what LoadGen is told to expect, since it
    makes one query that lasts; measured where it is None. A server needs it: so many queries of one sample come per
    second, by a Poisson process.

    BackendError without LoadGen's package, UsageError for a server without a rate, InternalError where the summary has
    no score. What `answer` raises is raised.
    """
    if scenario == "Server" and target_qps is None:
        raise UsageError("LoadGen's scenario Server needs the rate at which queries come.", "Give it with --rate.")
    given = (seconds,) if target_qps is None else (seconds, target_qps)
    if not all(0 < number < math.inf for number in given):
        raise ValueError(f"a rate and a duration are finite and above 0, not {target_qps} per s and {seconds} s")
    loadgen, version = _imported()
    system = _System(loadgen, answer, rows, batch)
    settings = _settings(loadgen, scenario, seconds, target_qps, system)
    with tempfile.TemporaryDirectory() as folder:
        serving = system.serving() if scenario == "Server" else contextlib.nullcontext()
        with _interruptions(system.fail), serving:
            _start(loadgen, system, settings, Path(folder))
        if system.failure is not None:
            raise system.failure
        file = Path(folder) / "mlperf_log_summary.txt"
        summary = file.read_text(errors="replace") if file.is_file() else ""
    figure, value, valid = _parsed(summary, scenario)
    return LoadGenSummary(version, scenario, valid and seconds >= OFFICIAL_S, figure, value, system.queries, summary)


def _imported() -> tuple[Any, str]:
    try:
        import mlperf_loadgen
    except ImportError as error:
        what = f"MLCommons' LoadGen is not installed ({PACKAGE})."
        raise BackendError(what, "pip install 'deploykit[loadgen]'") from error
    return mlperf_loadgen, metadata.version(PACKAGE)


class Word(enum.Enum):
    """What the thread that serves is told among the samples."""

    FLUSH = "no more samples come"
    END = "LoadGen is through"


class _System:
    """What LoadGen calls the system under test. Nothing that it calls raises."""

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

    def fail(self, failure: BaseException) -> None:
        """From now on nothing is computed."""
        self.failure = self.failure or failure

    def seconds(self, samples: int) -> float:
        """How long so many take, the fastest of a few."""
        indices = [index % self.count for index in range(samples)]
        durations = []
        for _ in range(PROBES):
            start = MONOTONIC()
            for piece in self._pieces(indices):
                self._answer(self._arrays(piece))
            durations.append((MONOTONIC() - start) / 1e9)
        return min(durations)

    def issue(self, samples: Sequence[Any]) -> None:
        """A query, in pieces that the engine takes; a server's is left to the thread that serves."""
        self.queries += 1
        if self._waiting is not None:
            for sample in samples:
                self._waiting.put(sample)
            return
        for piece in self._pieces(samples):
            self._compute(piece)

    def flush(self) -> None:
        """No more queries come."""
        if self._waiting is not None:
            self._waiting.put(Word.FLUSH)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """While the block lasts, a thread answers what comes, all that waits at once."""
        self._waiting = queue.SimpleQueue()
        thread = threading.Thread(target=self._serve, args=(self._waiting,), name="serving")
        thread.start()
        try:
            yield
        finally:  # LoadGen is through: 6.0.17 dies by SIGSEGV where a thread that answered much is gone before
            self._waiting.put(Word.END)
            thread.join()

    def _serve(self, waiting: queue.SimpleQueue[Any]) -> None:
        """After a failure nothing is answered before the flush: LoadGen sees the backlog grow, and ends soon."""
        held: list[Any] = []
        while (come := waiting.get()) is not Word.END:
            if come is Word.FLUSH:
                self._complete(held)
                held.clear()
                continue
            piece = [come, *self._next(waiting)]
            if self.failure is None:
                self._compute(piece)
            else:
                held += piece

    def _next(self, waiting: queue.SimpleQueue[Any]) -> Iterator[Any]:
        """What waits already, as far as it fits into a batch with the one before it."""
        for _ in range(self._batch.maximum - 1):
            if waiting.empty():
                return
            come = waiting.get()
            if isinstance(come, Word):
                waiting.put(come)  # it is the last
                return
            yield come

    def _pieces(self, samples: Sequence[T]) -> Iterator[Sequence[T]]:
        """As many at once as the engine takes."""
        for start in range(0, len(samples), self._batch.maximum):
            yield samples[start : start + self._batch.maximum]

    def _compute(self, samples: Sequence[Any]) -> None:
        if self.failure is None:
            try:
                self._answer(self._arrays([sample.index for sample in samples]))
            except BaseException as error:  # whatever it is, it may not reach C++
                self.fail(error)
        self._complete(samples)

    def _complete(self, samples: Sequence[Any]) -> None:
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(each.id, 0, 0) for each in samples])

    def _arrays(self, indices: Sequence[int]) -> Arrays:
        filled = [*indices, *[indices[-1]] * (self._batch.minimum - len(indices))]
        return {name: array[filled] for name, array in self._rows.items()}


def _settings(loadgen: Any, scenario: Scenario, seconds: float, target_qps: float | None, system: _System) -> Any:
    """What LoadGen is to expect, as measured: it makes up its queries beforehand."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = math.ceil(1000 * seconds)
    settings.min_query_count = 1  # LoadGen says itself, as early stopping, whether there were enough for its percentile
    match scenario:
        case "SingleStream":
            settings.single_stream_expected_latency_ns = 1e9 * system.seconds(1) / MARGIN
        case "MultiStream":
            settings.multi_stream_expected_latency_ns = (
                1e9 * system.seconds(settings.multi_stream_samples_per_query) / MARGIN
            )
        case "Offline":
            most = system.largest
            settings.offline_expected_qps = target_qps or MARGIN * most / system.seconds(most)
        case "Server":
            assert target_qps is not None, "it was asked for"
            system.seconds(1)
            settings.server_target_qps = target_qps
            settings.server_max_async_queries = math.ceil(BACKLOG_S * target_qps)
    return settings


@contextlib.contextmanager
def _interruptions(fail: Callable[[BaseException], None]) -> Iterator[None]:
    """While the block lasts, Ctrl-C is a failure like others: raised where it happens, it would reach C++."""
    if threading.current_thread() is not threading.main_thread():
        yield  # it is the main thread that is interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: fail(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(loadgen: Any, system: _System, settings: Any, folder: Path) -> None:
    log = loadgen.LogSettings()
    log.log_output.outdir = str(folder)
    log.enable_trace = False
    sut = loadgen.ConstructSUT(system.issue, system.flush)
    qsl = loadgen.ConstructQSL(system.count, system.count, lambda _: None, lambda _: None)
    try:
        # The last word: without it, an audit.config in the current folder would change the settings.
        loadgen.StartTestWithLogSettings(sut, qsl, settings, log, str(folder / "no audit"))
    finally:
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)


def _parsed(summary: str, scenario: Scenario) -> tuple[str, float, bool]:
    """The name of the score, its value, and whether LoadGen calls the result valid."""
    score = re.search(rf"^({FIGURES[scenario]})\s*:\s*(\S+)$", summary, re.MULTILINE)
    result = re.search(r"^Result is : (VALID|INVALID)$", summary, re.MULTILINE)
    try:
        if score is None or result is None:
            raise ValueError
        return score[1], float(score[2]), result[1] == "VALID"
    except ValueError as error:
        what = f"LoadGen's summary of {scenario} has no score: {' '.join(summary.split())[:300] or 'it is empty'}"
        raise InternalError(what, "Report it, with the version of mlcommons-loadgen.") from error
