"""Whole exports of small networks, by both exporters, against eager PyTorch."""

# ruff: noqa: ARG005 - functions that stand for networks get more than they use

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_text import FULL_SCALE
from torch import nn

from deploykit.backends.onnxruntime import open_graph
from deploykit.core import onnx_io
from deploykit.core.calibration.preprocess import preprocess_batch as preprocess
from deploykit.core.errors import InputError
from deploykit.core.files import find_damage
from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.values import (
    BatchRange,
    ChannelOrder,
    ExportOptions,
    ModelSpec,
    Preprocessing,
    TensorSpec,
    WeightsRecord,
)
from deploykit.export import export as stage
from deploykit.export import rewrite
from deploykit.export.layer_rows import read_layer_rows
from deploykit.export.networks.eager import EagerRunner
from deploykit.export.opset import convert_opset
from deploykit.export.passes import fold_scale
from deploykit.export.prepare import wrap_network

EXPORTERS = ["dynamo", "torchscript"]
SIZE = 16
RANDOM = WeightsRecord("random, seed 0", False, "0" * 64)


def conv_unit(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Columns(nn.Module):
    """A stem, three columns joined by their mean, dropout and a classifier; in training, an auxiliary head too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_unit(3, 8)
        self.pool = nn.MaxPool2d(2)
        self.columns = nn.ModuleList(conv_unit(8, 8) for _ in range(3))
        self.aux = nn.Linear(8, 5)
        self.dropout = nn.Dropout(0.9)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        a, b, c = (column(x) for column in self.columns)
        x = ((a + b + c) / 3).mean((2, 3))
        y = self.fc(self.dropout(x))
        return (y, self.aux(x)) if self.training else y


class Dense(nn.Module):
    """A BatchNorm that reads a Concat, so it cannot be folded. Also adaptive pooling, flatten, leaky activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.act = nn.LeakyReLU(0.1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(28, 5)

    def forward(self, x):
        x = self.act(self.norm(torch.cat([x, self.conv(x)], 1)))
        return self.fc(torch.flatten(self.pool(x), 1))


class SharedHead(nn.Module):
    """A convolution at two scales with a BatchNorm for each; a third of a megabyte of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 96, 1)
        self.head = nn.Conv2d(96, 96, 3, padding=1, bias=False)
        self.fine, self.coarse = nn.BatchNorm2d(96), nn.BatchNorm2d(96)

    def forward(self, x):
        x = self.stem(x)
        coarse = self.coarse(self.head(nn.functional.max_pool2d(x, 2)))
        return self.fine(self.head(x)).mean((2, 3)) + coarse.mean((2, 3))


class Standardized(nn.Module):
    """A convolution whose weight is computed at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(96, 96, 3, 3))
        self.stem = nn.Conv2d(3, 96, 1)

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(self.stem(x), weight).mean((2, 3))


class SizeDecision(Dense):
    """A module that neither torch.fx nor torch.export can trace."""

    def forward(self, x):
        return super().forward(x if x.shape[0] != 7 else x[:7])


class Viewed(Dense):
    """Flattens by shape arithmetic on the batch, like older code."""

    def forward(self, x):
        x = self.pool(self.norm(torch.cat([x, self.conv(x)], 1)))
        return self.fc(x.view(x.size(0), -1))


def network(kind: type[nn.Module] = Columns) -> nn.Module:
    """In eval mode, with no BatchNorm the identity; deterministic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind().eval()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.weight.data.uniform_(0.5, 1.5)
                part.bias.data.normal_(0, 0.5)
                part.running_mean.normal_(0, 0.5)
                part.running_var.uniform_(0.5, 1.5)
    return module


def spec(channels: ChannelOrder = "rgb", **changes) -> ModelSpec:
    return ModelSpec("toy", "Toy", "nowhere", {}, Preprocessing(SIZE, SIZE, SIZE, channels=channels), **changes)


def export(folder, module=None, model_spec=None, training_only=(), **options):
    """The record of an export, and the reference module."""
    model_spec = model_spec or spec()
    module = wrap_network(module or network(), model_spec, "fc")
    requested = ExportOptions(**options)
    inputs = stage.example_inputs(model_spec, requested.batch, ())
    record = stage.export_module(module, model_spec, requested, RANDOM, training_only, inputs, folder)
    return record, module


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def pixels(count: int) -> torch.Tensor:
    shape = (count, SIZE, SIZE, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def assert_agrees(folder, module: nn.Module, inputs: torch.Tensor) -> None:
    with torch.no_grad():
        expected = module(inputs)
    (actual,) = open_graph(folder / rewrite.GRAPH_FILE).run({"input": inputs.numpy()}).values()
    torch.testing.assert_close(
        torch.from_numpy(actual), expected, rtol=0, atol=FULL_SCALE * max(1, expected.abs().max().item())
    )


def operators(folder) -> list[str]:
    return [row.op_type for row in read_layer_rows(folder / rewrite.GRAPH_FILE)]


@pytest.fixture(scope="module", params=EXPORTERS)
def columns(request, tmp_path_factory):
    """One export of Columns per exporter, shared by many tests: folder, record, module."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, *export(folder, training_only=("aux",), exporter=request.param)


# ── Numerical agreement ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_graph_agrees_with_eager_at_any_batch(columns, count):
    folder, _, module = columns
    assert_agrees(folder, module, images(count))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_networks_without_folding_agree_too(exporter, tmp_path):
    _, module = export(tmp_path, network(Dense), exporter=exporter)
    assert_agrees(tmp_path, module, images(3))
    assert operators(tmp_path).count("BatchNormalization") == 1


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_convolution_shared_by_two_batchnorms_is_folded_for_each(exporter, tmp_path):
    _, module = export(tmp_path, network(SharedHead), exporter=exporter)
    assert_agrees(tmp_path, module, images(2))
    assert "BatchNormalization" not in operators(tmp_path)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_computed_weight_is_stored(exporter, tmp_path):
    record, module = export(tmp_path, network(Standardized), exporter=exporter)
    assert_agrees(tmp_path, module, images(2))
    assert record.initializer_bytes == 4 * (96 * 96 * 9 + 96 * 3 + 96)
    assert operators(tmp_path)[:2] == ["Conv", "Conv"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_static_batch_is_static(exporter, tmp_path):
    record, module = export(tmp_path, batch=BatchRange(3, 3, 3), exporter=exporter)
    assert_agrees(tmp_path, module, images(3))
    assert record.inputs[0].shape == (3, 3, SIZE, SIZE)
    assert record.outputs[0].shape == (3, 5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_smallest_batch_may_be_larger_than_two(exporter, tmp_path):
    record, module = export(tmp_path, network(Dense), batch=BatchRange(4, 8, 16), exporter=exporter)
    assert_agrees(tmp_path, module, images(4))
    assert record.inputs[0].shape[0] == "batch"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("head", "width"), [("probabilities", 5), ("embedding", 8)])
def test_a_head_is_served_under_its_name(head, width, exporter, tmp_path):
    record, module = export(tmp_path, model_spec=spec(head=head), training_only=("aux",), exporter=exporter)
    assert_agrees(tmp_path, module, images(2))
    assert record.outputs == (TensorSpec(head, "float32", ("batch", width), "NC"),)


@pytest.mark.parametrize(("exporter", "channels"), [("dynamo", "bgr"), ("torchscript", "rgb"), ("torchscript", "bgr")])
def test_preprocessing_in_the_graph_is_the_hosts(exporter, channels, tmp_path):
    inside = spec(channels, preprocess_in="graph")
    record, module = export(tmp_path, network(Dense), inside, exporter=exporter)
    assert record.inputs == (TensorSpec("input", "uint8", ("batch", SIZE, SIZE, 3), "NHWC"),)
    assert_agrees(tmp_path, module, pixels(2))
    by_host = torch.from_numpy(preprocess(list(pixels(2).numpy()), inside.preprocessing))
    with torch.no_grad():
        torch.testing.assert_close(module(pixels(2)), network(Dense)(by_host), rtol=0, atol=FULL_SCALE)


@pytest.mark.parametrize("kind", [SizeDecision, Viewed])
def test_a_batchnorm_in_code_that_torch_fx_cannot_follow_is_exported(kind, tmp_path):
    _, module = export(tmp_path, network(kind), exporter="torchscript")
    assert_agrees(tmp_path, module, images(5))


def test_arithmetic_on_the_batch_becomes_flatten(tmp_path):
    export(tmp_path, network(Viewed), exporter="dynamo")
    expected = ["Conv", "Concat", "BatchNormalization", "AveragePool", "Flatten", "Gemm"]
    assert operators(tmp_path) == expected


# ── Outputs of any kind ───────────────────────────────────────────────────────────────────────────────────────────────


class Returns(nn.Module):
    """Returns what a function makes of its input, of scores and of a map."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x):
        features = self.conv(x).relu()
        return self.function(x, features.mean((2, 3)), features)


# Every function gets the input, scores and a map.
RETURNED = {
    "copy": (lambda _, y, f: {"a": y, "b": y.clone(), "c": f}, ["a", "c"], "'b' is a copy of 'a'"),
    "detached": (lambda _, y, f: (y, f, y.detach()), ["output_0", "output_1"], "'output_2' is a copy of 'output_0'"),
    "input": (lambda x, y, _: {"x": x.clone(), "y": y}, ["y"], "'x' is a copy of 'input'"),
    "bool": (lambda _, y, f: {"mask": f > 0.5, "y": y}, ["mask", "y"], "'mask' is bool, and is cast to int32"),
    "double": (lambda _, y, f: (y.double(), f), ["output_0", "output_1"], "'output_0' is float64, and is cast to"),
    "sequence": (lambda _, y, f: f.mean(2).permute(2, 0, 1), ["output"], "in the graph it is N×14×4"),
    "name": (lambda _, y, f: {"input": y, "map": f}, ["input_output", "map"], "'input' is called 'input_output'"),
}


TENSORS = ModelSpec("toy", "Toy", "nowhere", {}, None, head="tensors")


def export_returned(folder, function, exporter="auto"):
    """The record of an export of `Returns`, and the reference module."""
    inputs, batch = (torch.zeros(2, 3, SIZE, SIZE),), BatchRange(1, 2, 4)
    network = Returns(function).eval()
    module = wrap_network(network, TENSORS, "", stage.plan_module(network, TENSORS, inputs, batch))
    options = ExportOptions(batch=batch, exporter=exporter)
    return stage.export_module(module, TENSORS, options, RANDOM, (), inputs, folder), module


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("returned", RETURNED)
def test_outputs_of_any_kind_agree_with_eager_and_what_is_changed_is_said(returned, exporter, tmp_path):
    function, names, note = RETURNED[returned]
    record, module = export_returned(tmp_path, function, exporter)
    assert [output.name for output in record.outputs] == names
    assert any(note in told for told in record.notes)
    oracle = EagerRunner(module, record.inputs, record.outputs, stage.output_names(module, TENSORS))
    arrays = {"input": images(3).numpy()}
    actual, expected = open_graph(tmp_path / rewrite.GRAPH_FILE).run(arrays), oracle.run(arrays)
    for name in names:
        assert actual[name].dtype == expected[name].dtype
        np.testing.assert_allclose(actual[name], expected[name], atol=FULL_SCALE)


REFUSED = {
    "rows by data": (lambda _, y, f: y[y[:, 0] > 0.2], "The output 'output' of toy"),
    "columns by data": (lambda _, y, f: f.flatten(1)[:, f[0].flatten() > 0.5], "The output 'output' of toy"),
    "random": (lambda _, y, f: y + torch.rand_like(y), "something else when it is given the same input again"),
    "quantized": (
        lambda _, y, f: torch.fake_quantize_per_tensor_affine(y, 0.1, 0, -128, 127),
        "toy is already quantized",
    ),
    "bfloat16": (lambda _, y, f: (y.bfloat16() @ torch.eye(4).bfloat16()).float(), "toy computes in bfloat16"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_no_graph_can_have_is_the_networks_fault_and_not_ours(refused, tmp_path):
    function, message = REFUSED[refused]
    with pytest.raises(InputError, match=message):
        export_returned(tmp_path, function)


class LoopOverBatch(Dense):
    def forward(self, x):
        rows = []
        for image in x:
            rows.append(super().forward(image[None])[0])  # noqa: PERF401 - as people write it
        return torch.stack(rows)


def test_a_loop_over_the_batch_is_refused_with_its_line_or_exported_for_one_batch(tmp_path):
    with pytest.raises(InputError, match=r"treats its batch as a fixed number .*`for image in x:`") as caught:
        export(tmp_path, network(LoopOverBatch))
    assert "--batch 1" in caught.value.remedy
    _, module = export(tmp_path, network(LoopOverBatch), batch=BatchRange(2, 2, 2))
    assert_agrees(tmp_path, module, images(2))


# ── The graph contains only what eval mode needs ──────────────────────────────────────────────────────────────────────


def test_only_inference_operators_remain(columns):
    folder, _, _ = columns
    expected = ["Conv", "Relu", "MaxPool", *["Conv", "Relu"] * 3, "Add", "Add", "GlobalAveragePool", "Flatten", "Gemm"]
    assert sorted(operators(folder)) == sorted(expected)


def test_initializers_are_the_folded_parameters_to_the_byte(columns):
    _, record, _ = columns
    convolutions = (3 + 3 * 8) * 8 * 9 + 4 * 8  # weights, and one bias per channel from each BatchNorm
    classifier = 8 * 5 + 5
    assert record.initializer_bytes == 4 * (convolutions + classifier)


def test_an_auxiliary_head_is_removed_completely(columns):
    folder, _, _ = columns
    assert b"aux" not in (folder / rewrite.GRAPH_FILE).read_bytes()


def test_a_mean_of_three_columns_becomes_two_sums(columns):
    folder, record, _ = columns
    assert operators(folder).count("Add") == 2
    assert not {"Mul", "Div"} & set(operators(folder))
    assert [rewrite.applied for rewrite in record.rewrites if rewrite.name == "fold_scale"] == [1]


def test_every_node_leads_back_to_its_module(columns):
    folder, _, _ = columns
    modules = [
        row.module for row in read_layer_rows(folder / rewrite.GRAPH_FILE) if row.op_type in {"Conv", "Gemm", "MaxPool"}
    ]
    assert modules == ["stem.0", "pool", "columns.0.0", "columns.1.0", "columns.2.0", "fc"]


def test_parameters_retain_their_names(columns):
    folder, _, module = columns
    exported = set(ir.load(folder / rewrite.GRAPH_FILE).graph.initializers)
    biases = {"stem.0.bias", *(f"columns.{i}.0.bias" for i in range(3))}  # from BatchNorm
    assert exported - biases <= set(module.network.state_dict())


def test_every_tensor_has_a_type_and_a_shape(columns):
    folder, _, _ = columns
    for row in read_layer_rows(folder / rewrite.GRAPH_FILE):
        assert row.dtype == "float"
        assert row.shape[0] == "batch"


def test_the_graph_contains_no_exporter_metadata_and_no_local_paths(columns):
    folder, _, _ = columns
    model = onnx.load(folder / rewrite.GRAPH_FILE)
    keys = {prop.key for node in model.graph.node for prop in node.metadata_props}
    assert keys == {MODULE_KEY}
    assert not model.metadata_props
    assert not model.graph.metadata_props
    assert (model.producer_name, model.producer_version, model.doc_string) == ("deploykit", "", "")
    assert bytes(Path(__file__).parents[2]) not in (folder / rewrite.GRAPH_FILE).read_bytes()


def test_the_module_is_unchanged(columns):
    _, _, module = columns
    left, fresh = module.network.state_dict(), network().state_dict()
    assert list(left) == list(fresh)
    assert all(torch.equal(left[name], fresh[name]) for name in fresh)


def test_another_export_has_the_same_bytes(columns, tmp_path):
    folder, record, _ = columns
    again, _ = export(tmp_path, training_only=("aux",), exporter=record.exporter)
    assert again == record
    assert (tmp_path / rewrite.GRAPH_FILE).read_bytes() == (folder / rewrite.GRAPH_FILE).read_bytes()


def test_the_record_describes_the_graph(columns):
    folder, record, _ = columns
    assert record.inputs == (TensorSpec("input", "float32", ("batch", 3, SIZE, SIZE), "NCHW"),)
    assert record.outputs == (TensorSpec("logits", "float32", ("batch", 5), "NC"),)
    assert (record.opset, record.fallback_reason, record.weights) == (20, None, RANDOM)
    assert [find_damage(folder, file) for file in record.files] == [None]


# ── Exporters and opsets ──────────────────────────────────────────────────────────────────────────────────────────────


def test_auto_reports_the_reason_of_its_fallback(tmp_path):
    record, module = export(tmp_path, network(SizeDecision), exporter="auto")
    assert record.exporter == "torchscript"
    assert "Constraints violated" in record.fallback_reason
    assert any("x.shape[0] != 7" in note for note in record.notes)
    assert_agrees(tmp_path, module, images(2))


@pytest.mark.parametrize("kind", [Columns, Dense, Viewed])
@pytest.mark.parametrize("opset", range(17, 24))
def test_an_opset_is_reached(opset, kind, tmp_path):
    record, module = export(tmp_path, network(kind), training_only=("aux",), opset=opset, exporter="torchscript")
    model = onnx.load(tmp_path / rewrite.GRAPH_FILE)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert record.opset == opset
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    assert_agrees(tmp_path, module, images(2))


@pytest.mark.parametrize("opset", [17, 23])
def test_a_converted_graph_still_leads_back_to_modules(opset, tmp_path):
    export(tmp_path, training_only=("aux",), opset=opset, exporter="torchscript")
    rows = read_layer_rows(tmp_path / rewrite.GRAPH_FILE)
    assert [row.module for row in rows if row.op_type == "Conv"] == ["stem.0", *(f"columns.{i}.0" for i in range(3))]
    assert {row.dtype for row in rows} == {"float"}


@pytest.mark.parametrize("opset", [0, 16, 24])
def test_an_unsupported_opset_is_refused(opset, tmp_path):
    with pytest.raises(InputError, match=f"Opset {opset} is not supported") as caught:
        export(tmp_path, opset=opset)
    assert "17 to 23" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_an_unfit_image_size_is_distinguished_from_untraceable_code(tmp_path):
    with pytest.raises(InputError, match="toy cannot process images of 16x16: ") as caught:
        export(tmp_path, nn.Sequential(nn.Conv2d(3, 4, SIZE + 1), nn.Flatten()))
    assert "--input-size" in caught.value.remedy


def test_an_operator_without_a_form_at_that_opset_is_refused():
    text = '<ir_version: 9, opset_import: ["" : 20]> g (float[2,3] x) => (float[2,3] y) { y = Gelu (x) }'
    with pytest.raises(InputError, match="This graph cannot be written at opset 17"):
        convert_opset(ir.from_onnx_text(text), 17)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_too_large_for_one_file_are_external_data(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_io, "LARGEST_SINGLE_FILE", 1024)
    record, module = export(tmp_path, training_only=("aux",), exporter="torchscript")
    assert [file.path for file in record.files] == ["model.onnx", "model.onnx.data"]
    assert [find_damage(tmp_path, file) for file in record.files] == [None, None]
    assert (tmp_path / rewrite.GRAPH_FILE).stat().st_size < record.initializer_bytes
    assert_agrees(tmp_path, module, images(2))


# ── Between passes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch):
    def careless(model: ir.Model):
        model.graph.outputs[0].name = "lost"
        return fold_scale.apply(model)

    monkeypatch.setattr(rewrite, "PASSES", (careless,))
    text = '<ir_version: 9, opset_import: ["" : 20]> g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }'
    with pytest.raises(rewrite.contract.InternalError, match="The pass fold_scale changed the graph's interface"):
        rewrite.run_passes(ir.from_onnx_text(text), 20)
