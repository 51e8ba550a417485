"""The scripts that show what INT8 costs and gains: what they break, what they ask for, and the tables they write."""

import os
import subprocess
import sys
from argparse import Namespace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import Accuracy, Interval
from deploykit.quantize.qdq import STEPS, codes, weight_scales
from deploykit.workflows import cache_keys

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # where Python itself finds what a script imports from beside it


def script(name):
    loader = SourceFileLoader(name, str(SCRIPTS / name))
    module = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


break_layer = script("break_layer")
bench_int8 = script("bench_int8")
bench_accuracy = script("bench_accuracy")
bench_calibration = script("bench_calibration")
bench_export = script("bench_export")


class Chain(nn.Module):
    """Everything between a layer and what writes its input that lets a positive factor pass."""

    def __init__(self, normalized=True):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16) if normalized else nn.Identity()
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(16, 8, 3)

    def forward(self, x):
        return self.second(self.pool(torch.relu(self.norm(self.first(x)))))


@pytest.fixture
def images():
    return torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def chain(normalized=True):
    torch.manual_seed(0)
    network = Chain(normalized).eval()
    if normalized:
        nn.init.uniform_(network.norm.weight, 0.5, 2)
        nn.init.normal_(network.norm.bias)
    return network


def layer_input(network, images):
    seen = []
    hook = network.second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    network(images)
    hook.remove()
    return seen[0]


@torch.no_grad()
def int8_error(network, images):
    """Noise over signal of the second layer alone in INT8, its input clipped nowhere."""
    values, weight = layer_input(network, images), network.second.weight.numpy()
    step = float(values.abs().max()) / STEPS
    scales = weight_scales(weight, 0, half_scales=False)
    rounded = torch.from_numpy(codes(weight, scales, 0) * scales.reshape(-1, 1, 1, 1))
    exact = nn.functional.conv2d(values, network.second.weight)
    given = nn.functional.conv2d((values / step).round() * step, rounded)
    return float((given - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize("normalized", [True, False])
def test_a_broken_layer_computes_the_same_function(images, normalized):
    network = chain(normalized)
    before = break_layer.answers(network, images)
    break_layer.break_layer(network, "second", 1000, 2, images)
    torch.testing.assert_close(break_layer.answers(network, images), before, rtol=1e-5, atol=1e-5)


def test_a_broken_layer_fails_in_int8(images):
    network = chain()
    assert int8_error(network, images) < 1e-3
    break_layer.break_layer(network, "second", 1000, 2, images)
    assert int8_error(network, images) > 0.3


def test_no_value_grows_by_more_than_the_root_of_the_factor(images):
    network = chain()
    before = float(layer_input(network, images).max())
    shrunk, largest = break_layer.break_layer(network, "second", 1000, 2, images)
    assert shrunk == 14
    assert largest == float(layer_input(network, images).max()) <= 1000**0.5 * before * 1.001


@pytest.mark.parametrize("path", ["layer2.0.conv1", "layer2.0.downsample.0", "conv1", "fc", "layer9"])
def test_a_layer_whose_input_others_read_is_refused(path):
    network = break_layer.find("resnet18").build(num_classes=10, depths=(1, 1, 1, 1), block="basic")
    with pytest.raises(InputError, match="Choose another --layer"):
        break_layer.writer_and_layer(network, path)


def test_a_second_convolution_of_a_block_is_written_by_its_batchnorm():
    network = break_layer.find("resnet18").build(num_classes=10, depths=(1, 1, 1, 1), block="basic")
    found = break_layer.writer_and_layer(network, "layer2.0.conv2")
    assert found == (network.layer2[0].bn1, network.layer2[0].conv2)


@pytest.mark.parametrize(("factor", "channels"), [(1, 2), (1000, 0), (1000, 16)])
def test_what_would_break_nothing_is_refused(images, factor, channels):
    with pytest.raises(UsageError):
        break_layer.break_layer(chain(), "second", factor, channels, images)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs break_layer in the test's folder, on a small network whose checkpoint is `sound.pth`."""
    network = break_layer.find("nin_cifar10").build(num_classes=10)
    torch.save(network.state_dict(), tmp_path / "sound.pth")
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["break_layer", "sound.pth", "--arch", "nin_cifar10", *words])
        return break_layer.main(), *capsys.readouterr()

    return run


def test_the_command_writes_a_checkpoint_of_the_same_network(call):
    code, out, err = call("--layer", "features.2", "-o", "broken.pth")
    assert (code, err) == (0, "")
    assert out.startswith("broken.pth: 8 channels into features.2 are 1000 times as large as the 184 others")
    sound, broken = torch.load("sound.pth"), torch.load("broken.pth")
    changed = [name for name, tensor in sound.items() if not torch.equal(broken[name], tensor)]
    assert changed == ["features.0.weight", "features.2.weight"]  # the biases are zero


def test_values_stay_within_fp16(call):
    code, _, err = call("--layer", "features.2", "--factor", "1e12", "-o", "never.pth")
    assert code == 2
    assert "FP16 ends at 65504" in err
    assert not Path("never.pth").exists()


def test_every_column_of_the_accuracies_is_of_one_graph(tmp_path):
    (tmp_path / "digits.pth").touch()
    asked = bench_accuracy.requests("resnet18", 32, tmp_path / "digits.pth")
    assert list(asked) == [
        *("FP32", "FP16", "INT8 mse", "INT8 entropy", "INT8 percentile", "INT8 minmax", "INT8+FP16"),
    ]
    assert len({cache_keys.graph(request) for request in asked.values()}) == 1
    assert {request.samples for request in asked.values()} == {445}


def test_a_checkpoint_that_is_there_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "resnet18.pth").touch()
    found = bench_accuracy.trained("resnet18", bench_accuracy.Training(), tmp_path)
    assert found == tmp_path / "resnet18.pth"


def test_one_digit_is_visible_in_the_accuracies():
    columns = {
        "FP32": Accuracy(436 / 445, 436 / 445, 445),
        "INT8 mse": Accuracy(436 / 445, 435 / 445, 445),
        "quantize_static": Accuracy(436 / 445, 400 / 445, 445),
    }
    text = bench_accuracy.table([bench_accuracy.Row("resnet18", 32, columns, 21)])
    assert "| network | input | eager | FP32 | INT8 mse | quantize_static | drop |" in text
    assert "| resnet18 | 32×32 | 9 (97.98%) | 9 (97.98%) | 10 (97.75%) | 45 (89.89%) | +0.22 |" in text
    assert text.endswith("graphs: resnet18 21.")


def test_integer_biases_are_counted_where_they_are_restored():
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,1,4,4] x) => (float[1,1,4,4] y)
        <float[1,1,1,1] w = {1}, int32[1] codes = {5}, float s = {0.5}, float[1] plain = {2}>
        { bias = DequantizeLinear(codes, s)
          a = Conv(x, w, bias)
          y = Conv(a, w, plain) }""")
    assert bench_accuracy.integer_biases(graph) == 1


def test_the_latencies_name_the_fastest_int8_of_each_network():
    sides = {"plain FP32, ONNX Runtime": 1.0, "FP32, OpenVINO": 0.2, "INT8, ONNX Runtime": 0.6, "INT8, OpenVINO": 0.4}
    rows = [
        bench_int8.Row(network, side, 100 * ratio, Interval(ratio, ratio - 0.01, ratio + 0.01), 0.5)
        for network in ("resnet50", "vgg16")
        for side, ratio in sides.items()
    ]
    text = bench_int8.table(rows, Namespace(rounds=40, batch=1, calibration_size=64))
    assert "| resnet50 | INT8, OpenVINO | 40.0 | 0.400 (0.390 to 0.410) | 50.0% |" in text
    assert text.splitlines()[-2:] == [
        "- resnet50: 0.400 (0.390 to 0.410), INT8, OpenVINO",
        "- vgg16: 0.400 (0.390 to 0.410), INT8, OpenVINO",
    ]


def test_a_latency_is_of_what_the_command_line_would_export():
    floating = bench_int8.request("googlenet", "fp32", "onnxruntime", 64)
    quantized = bench_int8.request("googlenet", "int8", "openvino", 64)
    assert floating.calibration is None
    assert (quantized.calibration.data, quantized.calibration.count) == ("photos", 64)
    assert cache_keys.graph(floating) == cache_keys.graph(quantized)


@pytest.mark.parametrize(
    ("measuring", "words", "reason"),
    [
        (bench_export, "--calls 5", "--calls: 5 is too few: 6 at least, since no 95 % interval"),
        (bench_export, "--rounds 0", "--rounds: 0 is too few: 1 at least"),
        (bench_export, "resnt50", "did you mean resnet50"),
        (bench_export, "nin_cifar10", "torchvision, which is the other side, does not have nin_cifar10"),
        (bench_int8, "--rounds 5", "--rounds: 5 is too few: 6 at least, since no 95 % interval"),
        (bench_int8, "--batch many", "--batch: 'many' is not a whole number"),
        (bench_calibration, "--peaks 100 0", "--peaks: 0 is too few: 1 at least"),
        (bench_accuracy, "resnt18", "did you mean resnet18"),
    ],
)
def test_what_no_figure_can_be_made_of_is_refused_before_anything_is_measured(
    measuring, words, reason, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["script", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        measuring.parse()
    assert reason in capsys.readouterr().err


def test_the_fewest_calls_that_an_interval_needs_are_taken(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench_export", "vgg16", "--calls", "6", "--rounds", "1"])
    given = bench_export.parse()
    assert (given.networks, given.calls, given.rounds) == (["vgg16"], 6, 1)


def test_a_script_finds_the_environment_where_the_python_that_runs_it_has_no_packages():
    bare = [sys.executable, "-S", SCRIPTS / "break_layer", "--help"]
    answer = subprocess.run(
        bare, env={**os.environ, "DEPLOYKIT_PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "usage: break_layer" in answer.stdout
