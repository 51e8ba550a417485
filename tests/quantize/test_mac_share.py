"""The receipt against a count of the ONNX file that shares no code with it (`independent_macs.py`)."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from independent_macs import count
from small_int8 import calibrated, parse, random
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from deploykit.core.values import (
    BatchRange,
    ExecutedPrecision,
    ExportRequest,
    ImageOverrides,
    Recipe,
    WeightsSource,
)
from deploykit.export.networks.torch_network import TorchNetwork
from deploykit.export.rewrite import run_passes
from deploykit.export.trace import InterfaceNames, trace_module
from deploykit.quantize import int8
from deploykit.quantize.receipt import compute_precision_receipt

IMAGES = np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype(np.float32)


def quantize_module(module: nn.Module, folder: Path) -> Path:
    """Trace, rewrite and quantize a network for `IMAGES`; the graph's path."""
    names, batch = InterfaceNames(("x",), ("y",)), BatchRange()
    traced = trace_module(module.eval(), (torch.zeros(2, 3, 32, 32),), batch, names, "torchscript")
    model, _ = run_passes(traced.model, 20)
    return quantize_model(model, folder)


def quantize_model(model: ir.Model, folder: Path) -> Path:
    source = folder / "source.onnx"
    ir.save(model, source)
    int8.write_quantized_graph(source, calibrated(source, IMAGES), Recipe(), folder)
    return folder / "model.onnx"


def require_equal_counts(graph: Path) -> float:
    """Assert that both counts agree in every figure; returns the INT8 share."""
    receipt, independent = compute_precision_receipt(graph, ExecutedPrecision("none", {}), "toy", "1.0"), count(graph)
    requested = sum(layer.macs for layer in receipt.layers if layer.requested == "int8")
    assert (requested, sum(layer.macs for layer in receipt.layers)) == (independent.int8, independent.total)
    assert {product.node for product in receipt.uncounted} == set(independent.uncounted)
    assert receipt.requested_shares.get("int8", 0.0) == pytest.approx(independent.int8_share, abs=1e-12)
    return independent.int8_share


# ── Weights that are computed ─────────────────────────────────────────────────────────────────────────────────────────


class StandardizedConv(nn.Conv2d):
    """Weight standardization, as in BiT."""

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True).sqrt()
        return functional.conv2d(x, (self.weight - mean) / (deviation + 1e-5), self.bias, self.stride, self.padding)


class NormalizedConv(nn.Conv2d):
    """The same by batch_norm on the weight, as in NFNet."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class LowRankConv(nn.Conv2d):
    """W + A·B, as adapters leave it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.a = nn.Parameter(torch.randn(self.out_channels, 4))
        self.b = nn.Parameter(torch.randn(4, self.weight[0].numel()))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + (self.a @ self.b).view_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class HalvedConv(nn.Conv2d):
    """A weight put together from two."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.upper, self.lower = (nn.Parameter(half.clone()) for half in self.weight.detach().chunk(2))
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, torch.cat([self.upper, self.lower]), self.bias, self.stride, self.padding)


def prune_half(conv: nn.Conv2d) -> nn.Module:
    return prune.l1_unstructured(conv, "weight", 0.5)


COMPUTED_WEIGHTS = {
    "weight standardization": StandardizedConv,
    "weight normalized by batch_norm": NormalizedConv,
    "low-rank update": LowRankConv,
    "two halves": HalvedConv,
    "pruning mask": lambda *arguments: prune_half(nn.Conv2d(*arguments)),
    "weight_norm": lambda *arguments: parametrizations.weight_norm(nn.Conv2d(*arguments)),
}


@pytest.mark.parametrize("case", COMPUTED_WEIGHTS)
def test_a_network_of_computed_weights_is_int8_throughout(case, tmp_path):
    conv = COMPUTED_WEIGHTS[case]
    body = (conv(3, 32, 3, 2, 1), nn.ReLU(), conv(32, 64, 3, 2, 1), nn.ReLU(), conv(64, 64, 3, 1, 1), nn.ReLU())
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    assert require_equal_counts(quantize_module(network, tmp_path)) == 1


# ── Shared weights ────────────────────────────────────────────────────────────────────────────────────────────────────


class SharedHead(nn.Module):
    """One convolution at three scales, with a BatchNorm for each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(24) for _ in range(3))
        for parameter in self.norms.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x, scales = torch.relu(self.stem(x)), []
        for norm in self.norms:
            scales.append(torch.relu(norm(self.head(x))).mean((2, 3)))
            x = functional.max_pool2d(x, 2)
        return torch.cat(scales, 1)


def test_a_convolution_shared_by_three_batchnorms_is_int8_at_every_scale(tmp_path):
    assert require_equal_counts(quantize_module(SharedHead(), tmp_path)) == 1


def test_a_linear_shared_by_two_branches_is_int8_in_both(tmp_path):
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.embed = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 64)

        def forward(self, x: Tensor) -> Tensor:
            branches = [self.embed(torch.relu(self.conv(side)).mean((2, 3))) for side in (x, x.flip(3))]
            return branches[0] - branches[1]

    assert require_equal_counts(quantize_module(Siamese(), tmp_path)) == 1


# ── Products that INT8 leaves out ─────────────────────────────────────────────────────────────────────────────────────


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.out = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 96), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.patches(x).flatten(2).transpose(1, 2)).chunk(3, 2)
        return self.out((q @ k.transpose(1, 2)).softmax(2) @ v)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(3, 16, 3, 2, 1), nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.gru, self.out = nn.GRU(48, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.out(self.gru(self.lstm(steps)[0])[0])


class Einsums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 16, 3, 2, 1), nn.Parameter(torch.randn(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,oc->bohw", torch.relu(self.conv(x)), self.mix)


class LeftWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.left = nn.Conv2d(3, 16, 3, 2, 1), nn.Parameter(torch.randn(24, 256))

    def forward(self, x: Tensor) -> Tensor:
        return self.left @ torch.relu(self.conv(x)).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("network", [Attention, Recurrent, Einsums, LeftWeights])
def test_products_that_stay_in_floating_point_count_in_the_whole(network, tmp_path):
    torch.manual_seed(0)
    assert 0 < require_equal_counts(quantize_module(network(), tmp_path)) < 1


def test_a_transposed_convolution_counts_once_per_input_position(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, 2, 1))
    assert require_equal_counts(quantize_module(network, tmp_path)) == 1


def test_a_product_inside_a_branch_is_outside_both_counts(tmp_path):
    text = """g (float[N,3,32,32] x) => (float[N,4,32,32] y) {
        [conv] a = Conv (x, w)
        mean = ReduceMean <keepdims = 0> (a)
        zero = Constant <value_float = 0.0> ()
        positive = Greater (mean, zero)
        y = If (positive) <
            then_branch = left () => (float[N,4,32,32] b) { [inner] b = MatMul (a, a) },
            else_branch = right () => (float[N,4,32,32] c) { c = Relu (a) }
        >
    }"""
    model = parse(text, w=random(4, 3, 1, 1))
    assert require_equal_counts(quantize_model(model, tmp_path)) == 1


# ── The catalog ───────────────────────────────────────────────────────────────────────────────────────────────────────

QUICK = ("nin_cifar10", "resnet18")
LONG = ("densenet121",)
"""For bundles of any network: `python tests/quantize/independent_macs.py BUNDLE…`."""


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_a_network_of_the_catalog_is_int8_throughout(name, tmp_path):
    request = ExportRequest(name, "fp32", WeightsSource("random"), image=ImageOverrides(32, 32))
    assert require_equal_counts(quantize_module(TorchNetwork(request).export_module, tmp_path)) == 1
