"""An engine's layers and executed precision from the backend, with doubles of TensorRT's runtime and of the driver."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cuda_doubles
import pytest
from cuda_doubles import THE_GPU, EngineInspector, Tensorrt

from deploykit.backends.gpu.driver import Driver
from deploykit.backends.tensorrt import backend as subject
from deploykit.backends.tensorrt.backend import TensorRt
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.core.files import record_file
from deploykit.core.values import BatchRange, BuildOptions, BuildRecord, Engine, TensorSpec

GRAPH = """<ir_version: 10, opset_import: ["" : 20]> g (float[batch,2] x) => (float[batch,2] y) <float[2,2] weight>
    { [product] y = MatMul (x, weight) }"""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, write_graph: Callable[[str], Path]) -> tuple[TensorRt, Engine, Path]:
    """A backend with a GPU and no library for its memory, and an engine with its folder."""
    gpu = cuda_doubles.install(monkeypatch)
    for library in ("pycuda", "cuda"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(THE_GPU, None))
    monkeypatch.setattr(subject, "version_of", lambda _: "10.3.0")
    monkeypatch.setattr(subject, "try_in_child", lambda *_, **__: None)
    backend = TensorRt()
    vars(backend)["_dialect"] = Dialect(Tensorrt(gpu))
    graph = write_graph(GRAPH)
    (graph.parent / "engine.plan").write_bytes(b"a plan")
    build = BuildRecord(
        graph=record_file(graph.parent, graph.name),
        platform=subject._platform_name(),
        gpu=THE_GPU.name,
        driver=THE_GPU.driver,
        compute_capabilities=(THE_GPU.compute_capability,),
        open_ended=False,
        settings=(),
        seconds=1.0,
        timing_cache_sha256=None,
        options=BuildOptions(batch=BatchRange(1, 3, 4)),
    )
    x, y = (TensorSpec(name, "float32", ("batch", 2), "NC") for name in "xy")
    return (
        backend,
        Engine("tensorrt", "10.3.0", record_file(graph.parent, "engine.plan"), (x,), (y,), build=build),
        (graph.parent),
    )


def test_without_a_library_for_gpu_memory_the_executed_precision_is_read_at_the_optimal_batch(
    engine: tuple[TensorRt, Engine, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(inspector: EngineInspector, _format: str) -> str:
        dtype = "Half" if inspector.execution_context.shape == (3, 2) else "unknown"
        layer = {"Name": "product", "LayerType": "gemm", "Inputs": [{"Datatype": dtype}]}
        return json.dumps({"Layers": [layer]})

    monkeypatch.setattr(EngineInspector, "get_engine_information", describe)
    backend, record, folder = engine
    assert backend.read_executed_precision(record, folder).arithmetic == {"product": "fp16"}
