"""Calls, buffers and CUDA graphs of the runner; the session computes on the CPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_doubles import Gpu, described

from deploykit.backends.onnxruntime import open_graph
from deploykit.backends.onnxruntime_cuda import runner as runners
from deploykit.backends.onnxruntime_cuda.runner import CudaRunner
from deploykit.core.errors import BackendError, InputError
from deploykit.core.values import TensorSpec

X = TensorSpec("x", "float32", ("batch", 3, 8, 8), "NCHW")
Y = TensorSpec("y", "float32", ("batch", 4), "NC")


def images(count: int, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)}


@pytest.fixture
def runner(gpu: Gpu, convolution: Path) -> CudaRunner:  # noqa: ARG001 - installed before
    return CudaRunner(convolution, (), (X,), (Y,))


def graph_ids(gpu: Gpu) -> list[str]:
    return [call[1] for call in gpu.calls if call[0] == "enqueue"]


def test_outputs_are_those_of_the_graph_at_every_batch_size(runner: CudaRunner, convolution: Path) -> None:
    expected = open_graph(convolution)
    for count in (2, 5, 2, 1):
        assert np.array_equal(runner.run(images(count, count))["y"], expected.run(images(count, count))["y"])


def test_a_call_copies_computes_and_copies_back_on_one_stream(gpu: Gpu, runner: CudaRunner) -> None:
    runner.run(images(2))
    gpu.calls.clear()
    runner.run(images(2, 1))
    steps = gpu.named("htod", "enqueue", "dtoh", "synchronize", "alloc", "alloc_host")
    assert steps == ["htod", "enqueue", "dtoh", "synchronize"]


def test_each_batch_size_has_a_cuda_graph_of_its_own(gpu: Gpu, runner: CudaRunner) -> None:
    for count in (1, 4, 1):
        runner.run(images(count))
    assert graph_ids(gpu) == ["1", "2", "1"]


def test_batch_sizes_beyond_the_first_ones_share_buffers_without_a_cuda_graph(
    gpu: Gpu, runner: CudaRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "MOST_GRAPHS", 1)
    for count in (1, 4, 3, 1):
        runner.run(images(count))
    assert graph_ids(gpu) == ["1", runners.NO_GRAPH, runners.NO_GRAPH, "1"]


def test_a_further_batch_size_that_comes_again_allocates_nothing(
    gpu: Gpu, runner: CudaRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "MOST_GRAPHS", 1)
    for count in (1, 4):
        runner.run(images(count))
    gpu.calls.clear()
    runner.run(images(4))
    assert gpu.named("alloc", "alloc_host") == []


def test_an_output_is_the_callers_own(runner: CudaRunner) -> None:
    first = runner.run(images(2))["y"]
    before = first.copy()
    runner.run(images(2, 1))
    assert np.array_equal(first, before)


def test_where_a_node_runs_on_the_cpu_no_cuda_graph_is_used_and_the_caveat_says_so(gpu: Gpu, convolution: Path) -> None:
    gpu.refuses["capture"] = 1
    runner = CudaRunner(convolution, (), (X,), (Y,))
    runner.run(images(1))
    assert "no CUDA graph is used" in runner.caveats[0]
    assert "some of its nodes run on the CPU" in runner.caveats[0]
    assert len(runner.gpu_times(images(1), 2)) == 1


def test_gpu_times_are_measured_without_a_cuda_graph_and_with_one(gpu: Gpu, runner: CudaRunner) -> None:
    times = runner.gpu_times(images(1), 2)
    assert [part.cuda_graph for part in times] == [False, True]
    assert graph_ids(gpu) == [runners.NO_GRAPH] * 3 + ["1"] * 3


def test_four_threads_take_turns(runner: CudaRunner, convolution: Path) -> None:
    expected = open_graph(convolution)
    batches = [images(1 + number % 3, number) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(runner.run, batches))
    for batch, result in zip(batches, results, strict=True):
        assert np.array_equal(result["y"], expected.run(batch)["y"])


class OnGpu:
    """An array of another library at that address."""

    def __init__(self, gpu: Gpu, array: np.ndarray[Any, Any]) -> None:
        self.address = gpu.allocate(array.nbytes)
        gpu.memory[self.address][:] = array.reshape(-1).view(np.uint8)
        self.__cuda_array_interface__ = described(self.address, array.shape, array.dtype)


def test_arrays_on_the_gpu_are_read_in_place(gpu: Gpu, runner: CudaRunner, convolution: Path) -> None:
    source = OnGpu(gpu, images(2)["x"])
    output = runner.run_device({"x": source})["y"]
    actual = gpu.bytes_at(output.address, output.nbytes).view(np.float32).reshape(output.shape)
    assert np.array_equal(actual, open_graph(convolution).run(images(2))["y"])
    assert not gpu.named("htod", "dtoh")


NONZERO = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch,3] x) => (int64[rank,found] y, float[batch,3] z) {
    y = NonZero (x)
    z = Relu (x)
}
"""


@pytest.fixture
def nonzero(gpu: Gpu, write_graph: Callable[[str], Path]) -> CudaRunner:  # noqa: ARG001 - installed before
    x = TensorSpec("x", "float32", ("batch", 3), "NC")
    y = TensorSpec("y", "int64", ("rank", "found"), "NC")
    z = TensorSpec("z", "float32", ("batch", 3), "NC")
    return CudaRunner(write_graph(NONZERO), (), (x,), (y, z))


SPARSE = np.array([[0, 2, -3]], np.float32)


def test_an_output_whose_size_depends_on_the_content_is_returned(nonzero: CudaRunner) -> None:
    outputs = nonzero.run({"x": SPARSE})
    assert outputs["y"].tolist() == [[0, 0], [1, 2]]
    assert outputs["z"].tolist() == [[0, 2, 0]]


def test_on_the_gpu_such_an_output_is_refused(gpu: Gpu, nonzero: CudaRunner) -> None:
    with pytest.raises(InputError, match="size of the output y is not known"):
        nonzero.run_device({"x": OnGpu(gpu, SPARSE)})


def test_mismatched_inputs_are_refused_in_one_sentence(runner: CudaRunner) -> None:
    with pytest.raises(InputError, match="ONNX Runtime rejects these inputs: x is float64, not float32"):
        runner.run({"x": np.zeros((1, 3, 8, 8))})


def test_a_failure_of_the_gpu_is_not_blamed_on_the_inputs(runner: CudaRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(runner._session, "run_with_iobinding", fail)
    with pytest.raises(BackendError, match="failed on the GPU"):
        runner.run(images(1))


def test_a_released_runner_leaves_no_memory_behind(gpu: Gpu, convolution: Path) -> None:
    runner = CudaRunner(convolution, (), (X,), (Y,))
    runner.run(images(2))
    del runner
    assert not gpu.memory
    assert not gpu.leaks
