"""Benchmarks of bundles: the inputs of an engine, the recorded results, and comparisons of two."""

import msgspec
import numpy as np
import pytest

from deploykit.backends.adapters import CastingRunner
from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import read_golden
from deploykit.cli.progress import TerminalProgress
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.values import BatchRange, DeviceConditions, GpuTimes
from deploykit.evaluate.latency import alternate
from deploykit.evaluate.latency.compare import compare_latency
from deploykit.evaluate.latency.load import Load
from deploykit.evaluate.latency.measure import Settings
from deploykit.workflows import benchmark

FEW = Settings(window_s=0, agreement=1e9, iterations_at_least=3, seconds_at_least=1e-6)
HERE = TerminalProgress()


@pytest.fixture
def single_call_blocks(monkeypatch):
    """Blocks of one call without a pause; tests/evaluate/latency tests real ones."""
    monkeypatch.setitem(alternate.alternate_blocks.__kwdefaults__, "pause_s", 0)
    monkeypatch.setitem(alternate.alternate_blocks.__kwdefaults__, "block_s", 0)


class RecordingRunner:
    """A runner that computes nothing and records its inputs."""

    def __init__(self, manifest):
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self.given = []

    def run(self, arrays):
        self.given.append(arrays)
        return {}


class TimedRecordingRunner(RecordingRunner):
    """A runner on a GPU."""

    def gpu_times(self, arrays, calls):
        (array,) = arrays.values()
        return tuple(GpuTimes(graph, len(array), calls, 3, 4) for graph in (False, True))


@pytest.fixture
def install_runner(fp32_bundle, monkeypatch):
    """Open the small bundle with a runner of this kind."""

    def install(kind, wrap=lambda runner: runner):
        manifest = manifests.read_manifest(fp32_bundle)
        runner = kind(manifest)
        monkeypatch.setattr(benchmark, "open_fastest", lambda *_: (manifest.engine, wrap(runner), ()))
        return runner

    return install


def bench(folder, sizes=(), load=Load(), scenario=None):  # noqa: B008 - a frozen value
    return benchmark.bench_bundle(folder, "python", sizes, load, FEW, scenario, HERE)


def test_the_default_batch_size_is_the_smallest(fp32_bundle):
    assert [measurement.latency.batch for measurement in bench(fp32_bundle).measurements] == [1]


def test_golden_rows_are_repeated_to_fill_a_batch(fp32_bundle, install_runner):
    runner = install_runner(RecordingRunner)
    bench(fp32_bundle, (1, 3))
    manifest = manifests.read_manifest(fp32_bundle)
    rows, _ = read_golden(fp32_bundle, manifest)
    (name,) = rows
    cycled = np.concatenate([rows[name]] * 3)
    assert {len(given[name]) for given in runner.given} == {1, 3}
    for given in runner.given:
        np.testing.assert_array_equal(given[name], cycled[: len(given[name])])


@pytest.mark.parametrize("load", [Load(), Load(2), Load(1, 1000.0)])
def test_the_first_call_counts_as_start_up_and_not_as_latency(fp32_bundle, install_runner, load):
    runner = install_runner(RecordingRunner)
    result = bench(fp32_bundle, load=load)
    latency = result.measurements[0].latency
    assert len(runner.given) >= 1 + latency.warmup_iterations + latency.iterations
    assert result.start_up.first_call_ms > 0


@pytest.mark.parametrize("load", [Load(), Load(2)])
@pytest.mark.parametrize("wrap", [lambda runner: runner, CastingRunner])
def test_gpu_times_are_measured_at_every_batch_size(fp32_bundle, install_runner, load, wrap):
    install_runner(TimedRecordingRunner, wrap)
    result = bench(fp32_bundle, (1, 4), load)
    for measured, size in zip(result.measurements, (1, 4), strict=True):
        plain, graph = measured.gpu
        assert (plain.cuda_graph, graph.cuda_graph) == (False, True)
        assert (plain.h2d_ms, plain.compute_ms) == (size, benchmark.GPU_CALLS)


def test_a_runner_on_a_cpu_has_no_gpu_times(fp32_bundle):
    assert bench(fp32_bundle).measurements[0].gpu == ()


@pytest.mark.usefixtures("single_call_blocks")
def test_device_conditions_are_recorded(fp32_bundle, install_runner, monkeypatch):
    install_runner(RecordingRunner)
    recorded = DeviceConditions("CPU", "a test", clock_mhz=(800, 2000))

    class Watching:
        conditions = (recorded,)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(benchmark, "record_conditions", Watching)
    assert bench(fp32_bundle).conditions == (recorded,)
    pair = benchmark.compare_bundles((fp32_bundle, fp32_bundle), "python", None, 6, FEW, None, HERE)
    assert pair.first.conditions == pair.second.conditions == (recorded,)


@pytest.mark.usefixtures("single_call_blocks")
@pytest.mark.parametrize(("kind", "seconds"), [(RecordingRunner, 0), (TimedRecordingRunner, 0.2)])
@pytest.mark.parametrize("wrap", [lambda runner: runner, CastingRunner])
def test_compared_runners_on_a_gpu_are_warmed_up_by_the_clock_in_each_block(
    fp32_bundle, install_runner, monkeypatch, kind, wrap, seconds
):
    warmups = []

    def compare(*arguments, warmup_s):
        warmups.append(warmup_s)
        return compare_latency(*arguments)

    monkeypatch.setattr(benchmark, "compare_calls", compare)
    install_runner(kind, wrap)
    benchmark.compare_bundles((fp32_bundle, fp32_bundle), "python", None, 6, FEW, None, HERE)
    assert warmups == [seconds]


@pytest.mark.parametrize(("sizes", "largest"), [((), 4), ((1, 2), 2)])
def test_loadgen_uses_batches_up_to_the_largest_requested_size(fp32_bundle, monkeypatch, sizes, largest):
    requests = []
    monkeypatch.setattr(benchmark.loadgen, "run_loadgen", lambda *words: requests.append(words))
    bench(fp32_bundle, sizes, Load(1, 1000.0), "Server")
    ((_, rows, batch, scenario, seconds, rate),) = requests
    assert list(rows) == ["input"]
    assert batch == BatchRange(1, largest, largest)
    assert (scenario, seconds, rate) == ("Server", FEW.seconds_at_least, 1000)


@pytest.mark.usefixtures("single_call_blocks")
def test_two_bundles_are_compared_at_the_smallest_common_batch_size(fp32_bundle, monkeypatch):
    read, narrow = manifests.read_manifest, [BatchRange(1, 2, 4), BatchRange(3, 3, 8)]

    def narrowed(folder):
        manifest = read(folder)
        return msgspec.structs.replace(manifest, batch=narrow.pop(0)) if narrow else manifest

    monkeypatch.setattr(manifests, "read_manifest", narrowed)
    pair = benchmark.compare_bundles((fp32_bundle, fp32_bundle), "python", None, 6, FEW, 1.5, HERE)
    assert [side.measurements[0].latency.batch for side in (pair.first, pair.second)] == [3, 3]
    assert (pair.rounds, pair.limit) == (6, 1.5)


def test_bundles_without_a_common_batch_size_cannot_be_compared(fp32_bundle, monkeypatch):
    read, narrow = manifests.read_manifest, [BatchRange(1, 1, 1), BatchRange(2, 2, 2)]
    monkeypatch.setattr(
        manifests, "read_manifest", lambda folder: msgspec.structs.replace(read(folder), batch=narrow.pop(0))
    )
    with pytest.raises(UsageError, match="accepts batches of 1 to 1, not of 2"):
        benchmark.compare_bundles((fp32_bundle, fp32_bundle), "python", None, 6, FEW, None, HERE)


def test_an_engine_that_this_machine_cannot_run_is_refused(fp32_bundle, monkeypatch):
    def refuse(*_):
        raise BackendError("TensorRT is not installed.", "Install it.")

    monkeypatch.setattr(benchmark, "open_fastest", refuse)
    with pytest.raises(BackendError, match="TensorRT is not installed"):
        bench(fp32_bundle)
