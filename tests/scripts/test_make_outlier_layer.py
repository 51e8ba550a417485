"""scripts/make_outlier_layer: the same function in floating point, a broken layer in INT8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import SCRIPTS, load_program
from torch import nn

from deploykit.core.errors import InputError, UsageError
from deploykit.export.networks.catalog import find_architecture
from deploykit.quantize.qdq import STEPS, quantize_weight, weight_scales

outliers = load_program("make_outlier_layer")


class Chain(nn.Module):
    """All operators between a layer and the producer of its input that commute with a positive factor."""

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
    inputs_seen = []
    hook = network.second.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0].detach()))
    network(images)
    hook.remove()
    return inputs_seen[0]


@torch.no_grad()
def int8_error(network, images):
    """Noise-to-signal ratio with only the second layer in INT8, its input unclipped."""
    values, weight = layer_input(network, images), network.second.weight.numpy()
    step = float(values.abs().max()) / STEPS
    scales = weight_scales(weight, 0, half_scales=False)
    rounded = torch.from_numpy(quantize_weight(weight, scales, 0) * scales.reshape(-1, 1, 1, 1))
    exact = nn.functional.conv2d(values, network.second.weight)
    actual = nn.functional.conv2d((values / step).round() * step, rounded)
    return float((actual - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize("normalized", [True, False])
def test_outlier_channels_preserve_the_function(images, normalized):
    network = chain(normalized)
    before = outliers.compute_logits(network, images)
    outliers.add_outliers(network, "second", 1000, 2, images)
    torch.testing.assert_close(outliers.compute_logits(network, images), before, rtol=1e-5, atol=1e-5)


def test_a_layer_with_outlier_channels_fails_in_int8(images):
    network = chain()
    assert int8_error(network, images) < 1e-3
    outliers.add_outliers(network, "second", 1000, 2, images)
    assert int8_error(network, images) > 0.3


def test_no_value_grows_by_more_than_the_root_of_the_factor(images):
    network = chain()
    before = float(layer_input(network, images).max())
    shrunk, largest = outliers.add_outliers(network, "second", 1000, 2, images)
    assert shrunk == 14
    assert largest == float(layer_input(network, images).max()) <= 1000**0.5 * before * 1.001


@pytest.mark.parametrize("path", ["layer2.0.conv1", "layer2.0.downsample.0", "conv1", "fc", "layer9"])
def test_a_layer_whose_input_has_other_readers_is_refused(path):
    network = find_architecture("resnet18").build(num_classes=10, depths=(1, 1, 1, 1), block="basic")
    with pytest.raises(InputError, match="Choose another --layer"):
        outliers.find_writer_and_layer(network, path)


def test_a_second_convolution_of_a_block_is_written_by_its_batchnorm():
    network = find_architecture("resnet18").build(num_classes=10, depths=(1, 1, 1, 1), block="basic")
    pair = outliers.find_writer_and_layer(network, "layer2.0.conv2")
    assert pair == (network.layer2[0].bn1, network.layer2[0].conv2)


@pytest.mark.parametrize(("factor", "channels"), [(1, 2), (1000, 0), (1000, 16)])
def test_options_without_effect_are_refused(images, factor, channels):
    with pytest.raises(UsageError):
        outliers.add_outliers(chain(), "second", factor, channels, images)


@pytest.fixture
def run_program(tmp_path, monkeypatch, capsys):
    """Runs make_outlier_layer in the test's folder, on a small network whose checkpoint is `sound.pth`."""
    network = find_architecture("nin_cifar10").build(num_classes=10)
    torch.save(network.state_dict(), tmp_path / "sound.pth")
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["make_outlier_layer", "sound.pth", "--model", "nin_cifar10", *words])
        return outliers.main(), *capsys.readouterr()

    return run


def test_the_command_writes_a_checkpoint_of_the_same_network(run_program):
    code, out, err = run_program("--layer", "features.2", "-o", "outliers.pth")
    assert (code, err) == (0, "")
    assert out.startswith("outliers.pth: 8 channels into features.2 are 1000 times as large as the 184 others")
    sound, changed_weights = torch.load("sound.pth"), torch.load("outliers.pth")
    changed = [name for name, tensor in sound.items() if not torch.equal(changed_weights[name], tensor)]
    assert changed == ["features.0.weight", "features.2.weight"]  # the biases are zero


def test_values_stay_within_fp16(run_program):
    code, _, err = run_program("--layer", "features.2", "--factor", "1e12", "-o", "never.pth")
    assert code == 2
    assert "beyond FP16's 65504" in err
    assert not Path("never.pth").exists()


def test_a_script_finds_the_environment_if_its_python_has_no_packages():
    bare = [sys.executable, "-S", SCRIPTS / "make_outlier_layer", "--help"]
    answer = subprocess.run(
        bare, env={**os.environ, "DEPLOYKIT_PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "usage: make_outlier_layer" in answer.stdout
