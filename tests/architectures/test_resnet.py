from typing import Any

import pytest
import torch
from torch import nn

from deploykit.export.architectures.resnet import ResNet

BOTTLENECKS = {"depths": (1, 1, 1, 1), "num_classes": 5}


def strides(network: nn.Module) -> list[tuple[int, int]]:
    """Strides of the 1×1 and the 3×3 convolution in the first block of each stage."""
    stages: tuple[Any, ...] = (network.layer1, network.layer2, network.layer3, network.layer4)
    return [(stage[0].conv1.stride[0], stage[0].conv2.stride[0]) for stage in stages]


@pytest.mark.parametrize(("stride_on", "halving"), [("1x1", (2, 1)), ("3x3", (1, 2))])
def test_the_named_convolution_has_the_stride(stride_on, halving):
    with torch.device("meta"):
        network = ResNet(**BOTTLENECKS, stride_on=stride_on)
    assert strides(network) == [(1, 1), halving, halving, halving]


def test_placement_of_the_stride_does_not_change_shapes():
    with torch.device("meta"):
        states = [ResNet(**BOTTLENECKS, stride_on=place).state_dict() for place in ("1x1", "3x3")]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("stride_on", "share"), [("1x1", 1 / 4), ("3x3", 1)])
def test_a_strided_1x1_sees_one_position_of_four(stride_on, share, randomize_batchnorm):
    block = randomize_batchnorm(ResNet(**BOTTLENECKS, stride_on=stride_on)).layer2[0]
    image = torch.randn(1, 256, 8, 8, dtype=torch.float64, requires_grad=True)
    block.conv3(block.conv2(block.conv1(image))).square().sum().backward()
    assert (image.grad.abs().sum(1) > 0).double().mean() == share


@pytest.mark.parametrize(("projection", "shortcut"), [("when_needed", nn.Identity), ("every_stage", nn.Sequential)])
def test_projection_of_the_first_stage_is_a_choice_where_shapes_agree(projection, shortcut):
    with torch.device("meta"):
        network = ResNet((2, 2, 2, 2), block="basic", projection=projection)
    assert isinstance(network.layer1[0].downsample, shortcut)


def test_only_the_first_block_of_a_stage_projects():
    with torch.device("meta"):
        network = ResNet((2, 2, 2, 2), block="basic", projection="every_stage")
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    assert [isinstance(stage[1].downsample, nn.Identity) for stage in stages] == [True] * 4


def test_a_projection_is_part_of_the_sum(randomize_batchnorm):
    block = randomize_batchnorm(ResNet((1, 1, 1, 1), block="basic", projection="every_stage")).layer1[0]
    image = torch.randn(1, 64, 4, 4, dtype=torch.float64)
    residual = block.bn2(block.conv2(block.bn1(block.conv1(image)).relu()))
    torch.testing.assert_close(block(image), (residual + block.downsample(image)).relu())


@pytest.mark.parametrize(
    ("arguments", "inner", "groups"),
    [({}, 64, 1), ({"groups": 32, "width_per_group": 4}, 128, 32), ({"width_per_group": 128}, 128, 1)],
    ids=["resnet50", "resnext50_32x4d", "wide_resnet50_2"],
)
def test_groups_and_width_shape_the_3x3(arguments, inner, groups):
    with torch.device("meta"):
        conv = ResNet(**BOTTLENECKS, **arguments).layer1[0].conv2
    assert (conv.out_channels, conv.groups) == (inner, groups)
