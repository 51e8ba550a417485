"""NVIDIA's compiler builds engines of every kind of network at every precision, without a GPU.

The engines are not run, which needs a GPU. `scripts/benchmarks/engines` builds engines of the whole catalog; this file
builds one of each kind.
"""

from __future__ import annotations

from contextlib import contextmanager

import msgspec
import pytest

from deploykit.backends import create_backend
from deploykit.backends.choice import reference_backend
from deploykit.core.calibration.batches import open_data
from deploykit.core.values import (
    BatchRange,
    BuildOptions,
    CalibrationOptions,
    ExportOptions,
    ExportRequest,
    Recipe,
    WeightsSource,
)
from deploykit.export.networks.torch_network import TorchNetwork
from deploykit.quantize import int8
from deploykit.workflows import precision, stages

pytest.importorskip("tensorrt_rtx", reason="engines are built by TensorRT-RTX: install the extra rtx")

ONE_OF_EACH = ("vgg11", "nin_cifar10", "googlenet", "resnext50_32x4d", "densenet121", "fractalnet20")

BATCH = BatchRange(1, 2, 2)
OPTIONS = ExportOptions(BATCH, exporter="torchscript")  # it traces a DenseNet in a quarter of the time
FEW = CalibrationOptions("photos", 4)
"""The ranges are rough, but the graph has the same structure."""


class Quiet:
    @contextmanager
    def step(self, title, total=None):  # noqa: ARG002 - the protocol's words
        yield lambda: None

    def note(self, text):
        pass


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Results are half a gigabyte per network, so they are cached for one test only."""
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(precision, "RANGE_SAMPLES", FEW.count)


@pytest.mark.slow
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_tensorrt_rtx_builds_every_kind_of_network_at_every_precision(model, tmp_path):
    request = ExportRequest(model, "fp32", WeightsSource("random"), options=OPTIONS)
    graph = stages.export_graph(request, TorchNetwork(request), reference_backend(), Quiet())
    evaluation = open_data("photos", "evaluation", 4, BATCH)
    oracle = stages.OracleOutputs(tmp_path, None)  # nothing is evaluated here
    session = stages.Session(request, graph, oracle, evaluation, reference_backend(), reference_backend(), Quiet())
    fp16_request = msgspec.structs.replace(request, precision="fp16")
    fp16 = precision.cast_graph(session._replace(request=fp16_request)).graph
    calibrated, _ = precision.calibrate_graph(session, FEW)
    int8_folder = tmp_path / "int8"
    int8_folder.mkdir()
    quantized = int8.write_quantized_graph(graph.path, calibrated, Recipe(), int8_folder)

    rtx = create_backend("tensorrt-rtx", BuildOptions(batch=BATCH))
    folders = {"fp32": graph.folder, "fp16": fp16.folder, "int8": int8_folder}
    files = {"fp32": graph.path.name, "fp16": fp16.file, "int8": quantized.files[0].path}
    sizes = {}
    for name, folder in folders.items():
        engine = rtx.compile(folder / files[name], folder)
        assert engine.build.gpu is None or engine.build.open_ended
        assert (engine.inputs[0].name, engine.inputs[0].shape[0]) == ("input", "batch")
        sizes[name] = engine.file.bytes
    assert max(sizes["fp16"], sizes["int8"]) < sizes["fp32"]  # the graph's types reached the engine
