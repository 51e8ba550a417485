import pytest
import torch

from deploykit.export.architectures.densenet import DenseNet

SMALL = {"growth_rate": 6, "blocks": (3, 4), "num_classes": 5}


@pytest.fixture
def network(randomize_batchnorm):
    torch.manual_seed(0)
    return randomize_batchnorm(DenseNet(**SMALL))


def test_each_layer_sees_the_input_and_every_earlier_output_of_its_block(network):
    block = network.features.denseblock2
    recorded, received = [], []
    for layer in block.values():
        layer.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
        layer.register_forward_hook(lambda _, __, output: received.append(output))
    entry = torch.randn(1, 15, 4, 4, dtype=torch.float64)
    block(entry)
    assert len(recorded) == 4
    for number, inputs in enumerate(recorded):
        assert torch.equal(inputs, torch.cat([entry, *received[:number]], 1))


def test_a_block_concatenates_its_input_and_every_output(network):
    entry = torch.randn(1, 15, 4, 4, dtype=torch.float64)
    received = []
    for layer in network.features.denseblock2.values():
        layer.register_forward_hook(lambda _, __, output: received.append(output))
    assert torch.equal(network.features.denseblock2(entry), torch.cat([entry, *received], 1))


def test_every_layer_adds_as_many_channels_as_the_growth_rate(network):
    assert [layer.conv2.out_channels for layer in network.features.denseblock1.values()] == [6, 6, 6]


def test_the_first_convolution_outputs_twice_the_growth_rate(network):
    assert network.features.conv0.out_channels == 12


@pytest.mark.parametrize(("compression", "kept"), [(0.5, 15), (1.0, 30), (0.34, 10)])
def test_a_transition_outputs_its_share_of_channels_rounded_down(compression, kept):
    network = DenseNet(**SMALL, compression=compression)  # 2·6 + 3·6 = 30 channels reach the transition
    assert network.features.transition1.conv.out_channels == kept


def test_a_bottleneck_is_a_multiple_of_the_growth_rate():
    network = DenseNet(**SMALL, bottleneck=3)
    assert network.features.denseblock1["denselayer1"].conv1.out_channels == 18


@pytest.mark.parametrize("blocks", [(2,), (1, 2, 3)])
def test_any_number_of_blocks_gives_logits(blocks):
    network = DenseNet(growth_rate=4, blocks=blocks, num_classes=5).eval()
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 5)
