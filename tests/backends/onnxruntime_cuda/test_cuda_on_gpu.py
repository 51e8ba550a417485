"""The backend on a real GPU, with nothing replaced; skipped without one, with the reason."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploykit.backends.onnxruntime import open_graph
from deploykit.backends.onnxruntime_cuda.backend import OnnxRuntimeCuda
from deploykit.backends.onnxruntime_cuda.runner import CudaRunner

REASON = OnnxRuntimeCuda().unavailable_reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")


@pytest.fixture
def runner(convolution: Path, tmp_path: Path) -> CudaRunner:
    backend = OnnxRuntimeCuda()
    return backend.load(backend.compile(convolution, tmp_path), tmp_path)


def images(count: int, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def test_outputs_are_those_of_the_cpu_at_every_batch_size(runner: CudaRunner, convolution: Path) -> None:
    expected = open_graph(convolution)
    for count in (1, 4, 1, 4, 2, 1):
        batch = images(count, count)
        np.testing.assert_allclose(runner.run(batch)["y"], expected.run(batch)["y"], rtol=1e-4, atol=1e-5)
    assert not runner.caveats


def test_threads_take_turns(runner: CudaRunner, convolution: Path) -> None:
    expected = open_graph(convolution)
    batches = [images(1 + number % 3, number) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(runner.run, batches))
    for batch, result in zip(batches, results, strict=True):
        np.testing.assert_allclose(result["y"], expected.run(batch)["y"], rtol=1e-4, atol=1e-5)


def test_pytorch_tensors_are_read_in_place(runner: CudaRunner, convolution: Path) -> None:
    torch = pytest.importorskip("torch")
    batch = images(3)
    output = runner.run_device({"x": torch.from_numpy(batch["x"]).cuda()})["y"]
    actual = torch.from_dlpack(output).cpu().numpy()
    np.testing.assert_allclose(actual, open_graph(convolution).run(batch)["y"], rtol=1e-4, atol=1e-5)


def test_gpu_times_are_measured_without_a_cuda_graph_and_with_one(runner: CudaRunner) -> None:
    plain, graph = runner.gpu_times(images(4), 20)
    assert (plain.cuda_graph, graph.cuda_graph) == (False, True)
    assert min(plain.compute_ms, graph.compute_ms) > 0


def test_the_executed_precision_is_read_from_this_gpu(convolution: Path, tmp_path: Path) -> None:
    backend = OnnxRuntimeCuda()
    executed = backend.read_executed_precision(backend.compile(convolution, tmp_path), tmp_path)
    assert executed.arithmetic == {"conv": "fp32", "fc": "fp32"}
