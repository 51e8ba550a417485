"""Bundles measured: what an engine is asked, what is filed of it, and what two of them share."""

import msgspec
import numpy as np
import pytest

from deploykit.backends.adapters import Fitted
from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import golden
from deploykit.cli.progress import TerminalProgress
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.values import BatchRange, Conditions, GpuTimes
from deploykit.evaluate.latency import turns
from deploykit.evaluate.latency.load import Load
from deploykit.evaluate.latency.measure import Settings
from deploykit.workflows import benchmark

FEW = Settings(window_s=0, agreement=1e9, iterations_at_least=3, seconds_at_least=1e-6)
HERE = TerminalProgress()


@pytest.fixture
def brief(monkeypatch):
    """Turns of one call without a pause: what they are for is the concern of tests/bench."""
    monkeypatch.setattr(turns, "PAUSE_S", 0)
    monkeypatch.setattr(turns, "BLOCK_S", 0)


class Noting:
    """A runner that computes nothing and notes what it was given."""

    def __init__(self, manifest):
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self.given = []

    def run(self, arrays):
        self.given.append(arrays)
        return {}


class Timed(Noting):
    """One on a GPU."""

    def gpu_times(self, arrays, calls):
        (array,) = arrays.values()
        return tuple(GpuTimes(graph, len(array), calls, 3, 4) for graph in (False, True))


@pytest.fixture
def running(fp32_bundle, monkeypatch):
    """Makes a runner of this kind the one that the small bundle is opened with."""

    def install(kind, wrap=lambda runner: runner):
        manifest = manifests.read(fp32_bundle)
        runner = kind(manifest)
        monkeypatch.setattr(benchmark, "opened", lambda *_: (manifest.engine, wrap(runner)))
        return runner

    return install


def bench(folder, sizes=(), load=Load(), scenario=None):  # noqa: B008 - a frozen value
    return benchmark.bench(folder, "python", sizes, load, FEW, scenario, HERE)


def test_without_a_size_it_is_the_smallest(fp32_bundle):
    assert [each.latency.batch for each in bench(fp32_bundle).measured] == [1]


def test_an_engine_gets_the_golden_rows_again_and_again_until_the_batch_is_full(fp32_bundle, running):
    runner = running(Noting)
    bench(fp32_bundle, (1, 3))
    manifest = manifests.read(fp32_bundle)
    rows, _ = golden(fp32_bundle, manifest)
    (name,) = rows
    cycled = np.concatenate([rows[name]] * 3)
    assert {len(given[name]) for given in runner.given} == {1, 3}
    for given in runner.given:
        np.testing.assert_array_equal(given[name], cycled[: len(given[name])])


@pytest.mark.parametrize("load", [Load(), Load(2), Load(1, 1000.0)])
def test_the_first_call_is_filed_as_start_up_and_counts_for_no_latency(fp32_bundle, running, load):
    runner = running(Noting)
    found = bench(fp32_bundle, load=load)
    latency = found.measured[0].latency
    assert len(runner.given) >= 1 + latency.warmup_iterations + latency.iterations
    assert found.start_up.first_ms > 0


@pytest.mark.parametrize("load", [Load(), Load(2)])
@pytest.mark.parametrize("wrap", [lambda runner: runner, Fitted])
def test_a_runner_that_can_tell_gpu_times_is_asked_at_every_batch(fp32_bundle, running, load, wrap):
    running(Timed, wrap)
    found = bench(fp32_bundle, (1, 4), load)
    for measured, size in zip(found.measured, (1, 4), strict=True):
        plain, graph = measured.gpu
        assert (plain.cuda_graph, graph.cuda_graph) == (False, True)
        assert (plain.h2d_ms, plain.compute_ms) == (size, benchmark.GPU_CALLS)


def test_a_runner_on_a_cpu_has_no_gpu_times(fp32_bundle):
    assert bench(fp32_bundle).measured[0].gpu == ()


@pytest.mark.usefixtures("brief")
def test_the_state_of_the_machine_is_filed(fp32_bundle, running, monkeypatch):
    running(Noting)
    seen = Conditions("CPU", "a test", clock_mhz=(800, 2000))

    class Watching:
        conditions = (seen,)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(benchmark, "watch", Watching)
    assert bench(fp32_bundle).conditions == (seen,)
    pair = benchmark.compare((fp32_bundle, fp32_bundle), "python", None, 6, FEW, None, HERE)
    assert pair.first.conditions == pair.second.conditions == (seen,)


@pytest.mark.parametrize(("sizes", "largest"), [((), 4), ((1, 2), 2)])
def test_loadgen_gets_batches_up_to_the_largest_size_that_was_asked_for(fp32_bundle, monkeypatch, sizes, largest):
    asked = []
    monkeypatch.setattr(benchmark.loadgen, "run", lambda *words: asked.append(words))
    bench(fp32_bundle, sizes, Load(1, 1000.0), "Server")
    ((_, rows, batch, scenario, seconds, rate),) = asked
    assert list(rows) == ["input"]
    assert batch == BatchRange(1, largest, largest)
    assert (scenario, seconds, rate) == ("Server", FEW.seconds_at_least, 1000)


@pytest.mark.usefixtures("brief")
def test_two_bundles_are_compared_at_the_smallest_batch_that_both_take(fp32_bundle, monkeypatch):
    read, narrow = manifests.read, [BatchRange(1, 2, 4), BatchRange(3, 3, 8)]

    def narrowed(folder):
        manifest = read(folder)
        return msgspec.structs.replace(manifest, batch=narrow.pop(0)) if narrow else manifest

    monkeypatch.setattr(manifests, "read", narrowed)
    pair = benchmark.compare((fp32_bundle, fp32_bundle), "python", None, 6, FEW, 1.5, HERE)
    assert [side.measured[0].latency.batch for side in (pair.first, pair.second)] == [3, 3]
    assert (pair.rounds, pair.limit) == (6, 1.5)


def test_bundles_that_share_no_batch_are_refused_by_the_one_that_does_not_take_it(fp32_bundle, monkeypatch):
    read, narrow = manifests.read, [BatchRange(1, 1, 1), BatchRange(2, 2, 2)]
    monkeypatch.setattr(manifests, "read", lambda folder: msgspec.structs.replace(read(folder), batch=narrow.pop(0)))
    with pytest.raises(UsageError, match="takes batches of 1 to 1, not of 2"):
        benchmark.compare((fp32_bundle, fp32_bundle), "python", None, 6, FEW, None, HERE)


def test_an_engine_that_this_machine_cannot_run_is_refused(fp32_bundle, monkeypatch):
    def refuse(*_):
        raise BackendError("TensorRT is not installed.", "Install it.")

    monkeypatch.setattr(benchmark, "opened", refuse)
    with pytest.raises(BackendError, match="TensorRT is not installed"):
        bench(fp32_bundle)
