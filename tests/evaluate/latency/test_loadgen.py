"""MLCommons' real LoadGen drives our runners; its summary is parsed strictly."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from deploykit.core.errors import BackendError, InternalError, UsageError
from deploykit.core.extras import install_remedy
from deploykit.core.values import BatchRange
from deploykit.evaluate.latency import loadgen
from deploykit.evaluate.latency.loadgen import _parse_summary, run_loadgen

ROWS = {"input": np.arange(12.0).reshape(4, 3)}
ANY = BatchRange(1, 4, 8)
SHORT_S = 0.3


class Engine:
    """Records its inputs, with a short delay per call."""

    def __init__(self, seconds=0.001):
        self.seconds = seconds
        self.asked = []

    def __call__(self, arrays):
        self.asked.append(arrays["input"])
        time.sleep(self.seconds)


@pytest.mark.parametrize(
    ("scenario", "rate", "figure"),
    [
        ("SingleStream", None, "90.0th percentile latency (ns)"),
        ("MultiStream", None, "99.0th percentile latency (ns)"),
        ("Offline", None, "Samples per second"),
        ("Server", 200.0, "Completed samples per second"),
    ],
)
def test_every_scenario_has_its_score(scenario, rate, figure):
    result = run_loadgen(Engine(seconds=0.01), ROWS, ANY, scenario, SHORT_S, rate)
    assert (result.scenario, result.figure) == (scenario, figure)
    assert result.value > 0
    assert f"Scenario : {scenario}" in result.summary
    assert "Min duration satisfied : Yes" in result.summary


def test_a_single_stream_query_is_one_sample_and_its_score_is_at_least_the_engine_time():
    engine = Engine(seconds=0.005)
    result = run_loadgen(engine, ROWS, ANY, "SingleStream", SHORT_S)
    assert {len(asked) for asked in engine.asked} == {1}
    assert result.queries == len(engine.asked) - loadgen.PROBES
    assert result.value >= 5e6


def test_all_rows_are_requested():
    engine = Engine()
    run_loadgen(engine, ROWS, ANY, "SingleStream", SHORT_S)
    assert {tuple(row) for asked in engine.asked for row in asked} == {tuple(row) for row in ROWS["input"]}


@pytest.mark.parametrize(("batch", "sizes"), [(BatchRange(1, 3, 3), {3, 2}), (BatchRange(8, 8, 8), {8})])
def test_a_query_of_eight_is_split_into_batches_and_the_last_is_padded(batch, sizes):
    engine = Engine()
    run_loadgen(engine, ROWS, batch, "MultiStream", SHORT_S)
    assert {len(asked) for asked in engine.asked} == sizes


def test_an_engine_of_larger_batches_gets_a_single_sample_several_times():
    engine = Engine()
    run_loadgen(engine, ROWS, BatchRange(4, 4, 4), "SingleStream", SHORT_S)
    assert all(np.array_equal(asked, asked[[0, 0, 0, 0]]) for asked in engine.asked)


def test_offline_is_one_query_in_full_batches():
    engine = Engine()
    result = run_loadgen(engine, ROWS, ANY, "Offline", SHORT_S)
    assert result.queries == 1
    assert {len(asked) for asked in engine.asked[:-1]} == {8}


def test_a_server_batches_all_waiting_queries():
    engine = Engine(seconds=0.02)
    result = run_loadgen(engine, ROWS, ANY, "Server", SHORT_S, 200.0)
    assert max(len(asked) for asked in engine.asked) > 1
    assert sum(len(asked) for asked in engine.asked[loadgen.PROBES :]) == result.queries


def test_a_short_run_is_invalid_even_if_loadgen_calls_it_valid():
    result = run_loadgen(Engine(seconds=0.0005), ROWS, ANY, "SingleStream", SHORT_S)
    assert "Result is : VALID" in result.summary
    assert not result.valid


def test_a_ten_minute_run_has_the_validity_that_loadgen_reports(monkeypatch):
    monkeypatch.setattr(loadgen, "MLPERF_MIN_S", SHORT_S)
    assert run_loadgen(Engine(seconds=0.0005), ROWS, ANY, "SingleStream", SHORT_S).valid


def test_an_audit_file_in_the_current_folder_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "audit.config").write_text("*.*.mode = 1\n*.*.min_duration = 60000\n")
    monkeypatch.chdir(tmp_path)
    result = run_loadgen(Engine(), ROWS, ANY, "SingleStream", SHORT_S)
    assert "min_duration (ms): 300" in result.summary
    assert [path.name for path in tmp_path.iterdir()] == ["audit.config"]


def test_loadgen_runs_a_bundles_engine(fp32_bundle):
    from deploykit.bundle import manifest as manifests
    from deploykit.bundle.open import open_engine
    from deploykit.bundle.verify import read_golden

    manifest = manifests.read_manifest(fp32_bundle)
    _, runner = open_engine(fp32_bundle, manifest)
    rows, _ = read_golden(fp32_bundle, manifest)
    result = run_loadgen(runner.run, rows, manifest.batch, "SingleStream", SHORT_S)
    assert result.queries > 1


# ── Failures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


FATAL = 30
"""A call that is behind the probes, whatever the scenario."""


class Broken(Engine):
    """Fails once."""

    def __call__(self, arrays):
        super().__call__(arrays)
        if len(self.asked) == FATAL:
            raise BackendError("The GPU has fallen off the bus.", "Restart.")


@pytest.mark.parametrize(
    ("scenario", "rate"), [("SingleStream", None), ("MultiStream", None), ("Offline", None), ("Server", 200.0)]
)
def test_an_engine_exception_propagates_and_stops_computation(monkeypatch, scenario, rate):
    monkeypatch.setattr(loadgen, "BACKLOG_S", 0.1)
    engine = Broken()
    with pytest.raises(BackendError, match="fallen off the bus"):
        run_loadgen(engine, ROWS, BatchRange(1, 1, 1), scenario, SHORT_S, rate)
    assert len(engine.asked) == FATAL


def test_a_run_after_a_failure_is_complete():
    with pytest.raises(BackendError):
        run_loadgen(Broken(), ROWS, ANY, "SingleStream", SHORT_S)
    assert run_loadgen(Engine(), ROWS, ANY, "SingleStream", SHORT_S).value > 0


INTERRUPTED = """
import os, signal, time
import numpy as np
from deploykit.core.values import BatchRange
from deploykit.evaluate.latency import loadgen

calls = []

def answer(arrays):
    calls.append(arrays)
    time.sleep(0.001)
    if len(calls) == {fatal}:
        os.kill(os.getpid(), signal.SIGINT)

loadgen.BACKLOG_S = 0.1
before = signal.getsignal(signal.SIGINT)
try:
    loadgen.run_loadgen(answer, {{"input": np.ones((4, 3))}}, BatchRange(1, 4, 8), {scenario!r}, 60, {rate})
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGINT) is before)
"""
"""In a process of its own: libraries that other tests load have handlers of theirs for the signal."""


@pytest.mark.parametrize(("scenario", "rate"), [("SingleStream", None), ("Server", 200.0)])
def test_ctrl_c_ends_a_run_and_its_handler_is_restored(scenario, rate):
    program = INTERRUPTED.format(fatal=FATAL, scenario=scenario, rate=rate)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


def test_a_thread_that_is_not_the_main_one_may_measure():
    collected = []
    thread = threading.Thread(
        target=lambda: collected.append(run_loadgen(Engine(), ROWS, ANY, "SingleStream", SHORT_S))
    )
    thread.start()
    thread.join()
    assert collected[0].value > 0


def test_a_server_that_cannot_keep_up_ends_with_its_backlog(monkeypatch):
    monkeypatch.setattr(loadgen, "BACKLOG_S", 0.1)
    engine = Engine(seconds=0.05)
    result = run_loadgen(engine, ROWS, BatchRange(1, 1, 1), "Server", 60, 200.0)
    assert result.queries < 200
    assert "Result is : INVALID" in result.summary


def test_a_server_needs_a_rate():
    with pytest.raises(UsageError, match="--rate"):
        run_loadgen(Engine(), ROWS, ANY, "Server", SHORT_S)


@pytest.mark.parametrize(("seconds", "rate"), [(0, 1), (-1, 1), (float("inf"), 1), (1, 0), (1, -1), (1, float("nan"))])
def test_invalid_times_and_rates_are_refused(seconds, rate):
    with pytest.raises(ValueError, match="finite and above 0"):
        run_loadgen(Engine(), ROWS, ANY, "Server", seconds, rate)


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(BackendError, match="LoadGen is not installed") as caught:
        run_loadgen(Engine(), ROWS, ANY, "SingleStream", SHORT_S)
    assert caught.value.remedy == install_remedy("loadgen")


def test_loadgen_is_imported_on_first_use_only():
    program = "import sys, deploykit.evaluate.latency.loadgen; print('mlperf_loadgen' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


# ── The summary ───────────────────────────────────────────────────────────────────────────────────────────────────────

SUMMARY = """\
Scenario : Offline
Mode     : PerformanceOnly
Samples per second: 997.285
Result is : INVALID
"""


def test_a_summary_is_read():
    assert _parse_summary(SUMMARY, "Offline") == ("Samples per second", 997.285, False)


@pytest.mark.parametrize(
    "spoiled",
    [
        "",
        SUMMARY.replace("Samples per second", "Samples"),
        SUMMARY.replace("997.285", "many"),
        SUMMARY.replace("997.285", ""),
        SUMMARY.replace("INVALID", "PERHAPS"),
        SUMMARY.replace("Result is", "Result was"),
    ],
)
def test_a_summary_without_a_score_or_a_result_is_a_fault(spoiled):
    with pytest.raises(InternalError, match="has no score"):
        _parse_summary(spoiled, "Offline")


def test_the_score_of_another_scenario_is_not_accepted():
    with pytest.raises(InternalError):
        _parse_summary(SUMMARY, "Server")
