"""NVIDIA's own compiler takes every kind of network, at every precision: engines for GPUs that need not be here.

What they answer is not seen: nothing of TensorRT-RTX runs without a GPU. `scripts/bench_engines` builds those of the
whole catalog; here stands one of each kind.
"""

from __future__ import annotations

from contextlib import contextmanager

import msgspec
import pytest

from deploykit.backends import backend
from deploykit.backends.choice import reference
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

pytest.importorskip("tensorrt_rtx", reason="engines are built by TensorRT-RTX: pip install 'deploykit[rtx]'")

ONE_OF_EACH = (
    *("vgg11", "nin_cifar10", "nin_imagenet", "googlenet", "resnet18", "resnet50", "resnext50_32x4d", "densenet121"),
    "fractalnet20",
)

BATCH = BatchRange(1, 2, 2)
OPTIONS = ExportOptions(BATCH, exporter="torchscript")  # it traces a DenseNet in a quarter of the time
FEW = CalibrationOptions("photos", 4)
"""The ranges are rough and the graph is the same."""


class Quiet:
    @contextmanager
    def step(self, title, total=None):  # noqa: ARG002 - the protocol's words
        yield lambda: None

    def note(self, text):
        pass


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """What this file makes is half a gigabyte per network: kept for one test only."""
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(precision, "RANGE_SAMPLES", FEW.count)


@pytest.mark.slow
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_tensorrt_rtx_builds_every_kind_of_network_at_every_precision(model, tmp_path):
    request = ExportRequest(model, "fp32", WeightsSource("random"), options=OPTIONS)
    graph = stages.export_graph(request, TorchNetwork(request), reference(), Quiet())
    few = open_data("photos", "calibration", 4, BATCH)
    half = precision.cast_graph(msgspec.structs.replace(request, precision="fp16"), graph, few, reference(), Quiet()).typed
    judged_on = open_data("photos", "evaluation", 4, BATCH)
    calibrated, _ = precision.calibrated_on(request, FEW, graph, judged_on, reference(), Quiet())
    integers = tmp_path / "int8"
    integers.mkdir()
    made = int8.quantize(graph.folder / graph.exported.files[0].path, calibrated, Recipe(), integers)

    rtx = backend("tensorrt-rtx", BuildOptions(batch=BATCH))
    folders = {"fp32": graph.folder, "fp16": half.folder, "int8": integers}
    files = {"fp32": graph.exported.files[0].path, "fp16": half.file, "int8": made.files[0].path}
    sizes = {}
    for name, folder in folders.items():
        engine = rtx.compile(folder / files[name], folder)
        assert engine.build.gpu is None or engine.build.open_ended
        assert (engine.inputs[0].name, engine.inputs[0].shape[0]) == ("input", "batch")
        sizes[name] = engine.file.bytes
    assert max(sizes["fp16"], sizes["int8"]) < sizes["fp32"]  # the graph's types reached the engine
