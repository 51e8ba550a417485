import pytest
import torch
from torch import nn

from deploykit.export.architectures.vgg import VGG, A, B, D, E


@pytest.mark.parametrize(("depths", "layers"), [(A, 11), (B, 13), (D, 16), (E, 19)])
def test_a_column_of_table_1_has_its_number_of_weight_layers(depths, layers):
    with torch.device("meta"):
        network = VGG(depths)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == layers


def test_each_stack_halves_height_and_width():
    with torch.device("meta"):
        maps = VGG(A).features(torch.empty(1, 3, 224, 224))
    assert maps.shape == (1, 512, 7, 7)


def test_batch_norm_follows_every_convolution():
    with torch.device("meta"):
        layers = list(VGG(A, batch_norm=True).features)
    assert [type(layers[i + 1]) for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)] == [
        nn.BatchNorm2d
    ] * 8
