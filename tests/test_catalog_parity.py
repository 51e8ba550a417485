"""Networks of every family through the whole export workflow except packing (slow).

`deploykit parity` does this for the whole catalog; this file does it for one network of each kind.
"""

from __future__ import annotations

from contextlib import contextmanager

import onnx_ir as ir
import pytest

from deploykit.backends import create_backend
from deploykit.core.values import BatchRange, CalibrationOptions, ExportOptions, ExportRequest, WeightsSource
from deploykit.export.export import eval_state_bytes
from deploykit.export.networks.torch_network import TorchNetwork
from deploykit.export.prepare import fold_batchnorm
from deploykit.workflows import export, stages

OPERATORS = {"Conv", "Relu", "Add", "Concat", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"}
"""Operators of GoogLeNet and FractalNet in eval mode: no Div of a mean join, no Dropout, no random operator.

(Untrained biases of zeros are left out, so that networks without BatchNorm hold less than their parameters.)
"""

ONE_OF_EACH = ("nin_imagenet", "googlenet", "resnet18", "resnext50_32x4d", "densenet121", "fractalnet20")
"""VGG, whose 133 million weights take minutes, is compared by `scripts/test_cpp`, at 32×32 and the same precisions."""

FEW = 12
"""Calibration samples: the ranges are rough, but the graph has the same structure."""

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
    """Results are half a gigabyte per network, so they are cached for one test only."""
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_a_network_of_every_kind_agrees_with_eager_at_every_precision_and_computes_in_int8(model):
    pytest.importorskip("openvino", reason="INT8 on a CPU is OpenVINO's: install the extra openvino")
    calibrated = {"calibration": CalibrationOptions("photos", FEW), "target": "openvino"}
    floating = [request(model), request(model, "fp16")]
    integer = [request(model, precision, **calibrated) for precision in ("int8", "int8-fp16")]
    rows = list(export.evaluate_matrix([*floating, *integer], Quiet()))  # the network is traced once
    assert [(row.precision, row.failures) for row in rows] == [
        (precision, ()) for precision in ("fp32", "fp16", "int8", "int8-fp16")
    ]
    assert all(row.receipt.shares["int8"] > 0.999 for row in rows[2:])


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
def test_the_graph_contains_exactly_the_parameters_used_in_eval_mode(model, arguments):
    export_request = request(model, arguments=arguments)
    network = TorchNetwork(export_request)
    graph = stages.export_graph(export_request, network, create_backend("onnxruntime"), Quiet())
    folded = fold_batchnorm(network.export_module)
    unused = unread_columns(network)
    assert graph.exported.initializer_bytes == eval_state_bytes(folded, (*network.architecture.training_only, *unused))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["googlenet", "fractalnet20"])
def test_auxiliary_heads_and_drop_path_are_absent_from_the_graph(model):
    export_request = request(model)
    graph = stages.export_graph(export_request, TorchNetwork(export_request), create_backend("onnxruntime"), Quiet())
    nodes = list(ir.load(graph.folder / graph.exported.files[0].path).graph)
    assert not [node.name for node in nodes if node.name.startswith("aux")]
    assert {node.op_type for node in nodes} <= OPERATORS


def unread_columns(network):
    """Paths of convolutions in columns that do not run: FractalNet has all columns, a sub-network uses one."""
    module = network.loaded_network.module
    blocks = [(path, block) for path, block in module.named_modules() if hasattr(block, "halves")]
    return [f"{path}.conv" for path, block in blocks if block.column not in module.active]
