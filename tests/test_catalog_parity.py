"""Networks of every family through the whole pipeline but packing: slow, and the reason for all the rest.

`deploykit parity` does this for the whole catalog; here stands one of each kind.
"""

from __future__ import annotations

from contextlib import contextmanager

import onnx_ir as ir
import pytest

from deploykit.backends import backend
from deploykit.core.values import BatchRange, CalibrationOptions, ExportOptions, ExportRequest, WeightsSource
from deploykit.export.export import eval_bytes
from deploykit.export.networks.torch_network import TorchNetwork
from deploykit.export.prepare import fold_batchnorm
from deploykit.workflows import export, stages

OPERATORS = {"Conv", "Relu", "Add", "Concat", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"}
"""What GoogLeNet and FractalNet are made of in eval mode: no Div of a mean join, no Dropout, no chance.

(Untrained biases of zeros are left out, so that networks without BatchNorm hold less than their parameters.)
"""

ONE_OF_EACH = (
    *("vgg11_bn", "nin_cifar10", "nin_imagenet", "googlenet", "resnet18", "resnext50_32x4d", "densenet121"),
    "fractalnet20",
)

FEW = 12
"""Calibration samples: the ranges are rough and the graph is the same."""

OPTIONS = ExportOptions(batch=BatchRange(1, 2, 4))


class Quiet:
    @contextmanager
    def step(self, title, total=None):  # noqa: ARG002 - the protocol's words
        yield lambda: None

    def note(self, text):
        assert text.startswith(f"Calibrating on {FEW} samples"), f"nothing else to note was expected: {text}"


def request(model, precision="fp32", **said):
    said = {"data": "photos", "samples": 4, "options": OPTIONS, **said}
    return ExportRequest(model, precision, WeightsSource("random"), **said)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """What this file makes is half a gigabyte per network: kept for one test only."""
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_a_network_of_every_kind_agrees_with_eager_at_every_precision(model):
    rows = list(export.matrix([request(model), request(model, "fp16")], Quiet()))
    assert [(row.precision, row.parity.failures) for row in rows] == [("fp32", ()), ("fp16", ())]


@pytest.mark.slow
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_a_network_of_every_kind_agrees_in_int8_and_computes_in_it(model):
    pytest.importorskip("openvino", reason="INT8 on a CPU is OpenVINO's: pip install 'deploykit[openvino]'")
    calibrated = {"calibration": CalibrationOptions("photos", FEW), "target": "openvino"}
    requests = [request(model, precision, **calibrated) for precision in ("int8", "int8-fp16")]
    for row in export.matrix(requests, Quiet()):
        assert row.failures == ()
        assert row.receipt.shares["int8"] > 0.999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("googlenet", ()),
        ("googlenet", ("branch3_kernel=3",)),
        ("fractalnet20", ()),
        ("fractalnet20", ("columns=2",)),
        ("fractalnet20", ("column=3",)),
        ("fractalnet20", ("column=1",)),
        ("resnet18", ("projection=every_stage",)),
    ],
)
def test_the_graph_holds_the_parameters_that_eval_mode_reads_and_not_a_byte_more(model, arguments):
    asked = request(model, arguments=arguments)
    network = TorchNetwork(asked)
    graph = stages.export_graph(asked, network, backend("onnxruntime"), Quiet())
    folded = fold_batchnorm(network.served)
    unused = unread_columns(network)
    assert graph.exported.initializer_bytes == eval_bytes(folded, (*network.architecture.training_only, *unused))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["googlenet", "fractalnet20"])
def test_no_trace_of_auxiliary_heads_or_drop_path_is_left(model):
    asked = request(model)
    graph = stages.export_graph(asked, TorchNetwork(asked), backend("onnxruntime"), Quiet())
    nodes = list(ir.load(graph.folder / graph.exported.files[0].path).graph)
    assert not [node.name for node in nodes if node.name.startswith("aux")]
    assert {node.op_type for node in nodes} <= OPERATORS


def unread_columns(network):
    """Paths of the convolutions whose columns do not run: FractalNet holds all, and a sub-network reads its own."""
    module = network.loaded.module
    blocks = [(path, block) for path, block in module.named_modules() if hasattr(block, "halves")]
    return [f"{path}.conv" for path, block in blocks if block.column not in module.active]
