import pytest
import torch
from torch import nn

from deploykit.export.architectures.nin import NiN


@pytest.fixture(scope="module")
def cifar():
    return NiN("cifar10").eval()


def convolutions(network: nn.Module) -> list[tuple[int, int]]:
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return [(layer.out_channels, layer.kernel_size[0]) for layer in layers]


def test_cifar_channels_and_kernels_are_the_published_ones(cifar):
    first, second = [(192, 5), (160, 1), (96, 1)], [(192, 5), (192, 1), (192, 1)]
    assert convolutions(cifar) == [*first, *second, (192, 3), (192, 1), (10, 1)]


def test_imagenet_channels_and_kernels_are_the_published_ones():
    with torch.device("meta"):
        layers = convolutions(NiN("imagenet", num_classes=1000))
    first, second, third = [(96, 11), (96, 1), (96, 1)], [(256, 5), (256, 1), (256, 1)], [(384, 3), (384, 1), (384, 1)]
    assert layers == [*first, *second, *third, (1024, 3), (1024, 1), (1000, 1)]


@pytest.mark.parametrize(("table", "size", "maps"), [("cifar10", 32, (192, 8, 8)), ("imagenet", 224, (1024, 6, 6))])
def test_pooling_rounds_up(table, size, maps):
    with torch.device("meta"):
        features = NiN(table).eval().features(torch.empty(1, 3, size, size))
    assert features.shape[1:] == maps


def test_a_logit_is_the_mean_of_its_class_map(cifar):
    image = torch.randn(2, 3, 32, 32)
    maps = cifar.classifier(cifar.features(image)).clamp(min=0)
    torch.testing.assert_close(cifar(image), maps.mean((2, 3)))


def test_scores_are_rectified_as_in_equation_2(cifar):
    assert cifar(torch.randn(4, 3, 32, 32)).min() >= 0


def test_logits_may_be_negative_without_the_last_relu():
    assert NiN("cifar10", rectified_scores=False).eval()(torch.randn(4, 3, 32, 32)).min() < 0


def test_all_but_the_last_mlpconv_layer_are_dropped_out_on_cifar(cifar):
    assert [module.p for module in cifar.features if isinstance(module, nn.Dropout)] == [0.5, 0.5]
