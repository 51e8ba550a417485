"""ResNet, ResNeXt and Wide ResNet: stages of blocks that add their input to what they compute.

- He, Zhang, Ren & Sun 2015, "Deep Residual Learning for Image Recognition", arXiv 1512.03385, table 1: the five depths.
- Xie et al. 2016, "Aggregated Residual Transformations", arXiv 1611.05431, table 1: grouped 3×3 convolutions.
- Zagoruyko & Komodakis 2016, "Wide Residual Networks", arXiv 1605.07146, table 8: bottlenecks twice as wide.

State-dict names are torchvision's.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from deploykit.core.values import Architecture, Argument, InferredArgument, Preprocessing, Pretrained
from deploykit.export.architectures.arguments import require_at_least, require_choice, require_sizes
from deploykit.export.architectures.initialization import initialize_weights
from deploykit.export.architectures.layers import IMAGENET

Kind: TypeAlias = Literal["basic", "bottleneck"]
StrideOn: TypeAlias = Literal["1x1", "3x3"]
Projection: TypeAlias = Literal["when_needed", "every_stage"]

EXPANSION: Final = {"basic": 1, "bottleneck": 4}
"""Output channels of a block, as a multiple of the width of its stage."""

WIDTHS: Final = (64, 128, 256, 512)
"""Widths of the four stages."""


class ResNet(nn.Module):
    """N×3×H×W to N×num_classes; H and W at least 32, 224 in the paper.

    `stride_on`: which convolution of a bottleneck halves height and width. The paper (v1) strides the first 1×1, and so
    skips three positions of four; the default (v1.5, and all released weights) strides the 3×3. A basic block has no
    1×1. No weight's shape depends on it: a checkpoint does not show which of the two it was trained with.
    `projection`: 1×1 shortcuts only where shapes differ (`when_needed`, the paper's option B) or on the first block of
    every stage (`every_stage`); the two differ in the first stage of basic blocks, whose shapes agree.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 4, 6, 3),
        block: Kind = "bottleneck",
        groups: int = 1,
        width_per_group: int = 64,
        stride_on: StrideOn = "3x3",
        projection: Projection = "when_needed",
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        require_sizes("ResNet", depths=depths)
        require_choice(EXPANSION, "ResNet", block=block)
        require_choice(("1x1", "3x3"), "ResNet", stride_on=stride_on)
        require_choice(("when_needed", "every_stage"), "ResNet", projection=projection)
        require_at_least(1, "ResNet", groups=groups, width_per_group=width_per_group, num_classes=num_classes)
        if len(depths) != len(WIDTHS):
            raise ValueError(f"ResNet: depths names the blocks of {len(WIDTHS)} stages, not of {len(depths)}")
        if block == "basic" and (groups, width_per_group, stride_on) != (1, 64, "3x3"):
            raise ValueError(
                "ResNet: a basic block has neither groups nor a width of its own nor a 1×1 to stride; "
                "leave groups, width_per_group and stride_on alone, or choose block=bottleneck"
            )

        design = Design(block, groups, width_per_group, stride_on, projection)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = make_stage(design, 64, WIDTHS[0], depths[0], stride=1)
        self.layer2 = make_stage(design, WIDTHS[0] * EXPANSION[block], WIDTHS[1], depths[1], stride=2)
        self.layer3 = make_stage(design, WIDTHS[1] * EXPANSION[block], WIDTHS[2], depths[2], stride=2)
        self.layer4 = make_stage(design, WIDTHS[2] * EXPANSION[block], WIDTHS[3], depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[-1] * EXPANSION[block], num_classes)
        initialize_weights(self)
        temper_residuals(self, sum(depths))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # N×64×112×112
        x = self.maxpool(x)  # N×64×56×56
        x = self.layer1(x)  # N×256×56×56 (basic blocks: a quarter of the channels, from here on)
        x = self.layer2(x)  # N×512×28×28
        x = self.layer3(x)  # N×1024×14×14
        x = self.layer4(x)  # N×2048×7×7
        x = self.avgpool(x).flatten(1)  # N×2048
        return self.fc(x)  # N×num_classes


class Design(NamedTuple):
    """Settings that all stages of a network share; the fields are ResNet's arguments."""

    block: Kind
    groups: int
    width_per_group: int
    stride_on: StrideOn
    projection: Projection


def make_stage(design: Design, in_channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` blocks; the first changes channels and size, the others keep them."""
    out_channels = width * EXPANSION[design.block]
    projected = in_channels != out_channels or design.projection == "every_stage"
    shortcut = make_projection(in_channels, out_channels, stride) if projected else nn.Identity()
    first = make_block(design, in_channels, width, stride, shortcut)
    others = [make_block(design, out_channels, width, 1, nn.Identity()) for _ in range(depth - 1)]
    return nn.Sequential(first, *others)


def make_block(design: Design, in_channels: int, width: int, stride: int, shortcut: nn.Module) -> nn.Module:
    if design.block == "basic":
        return BasicBlock(in_channels, width, stride, shortcut)
    return Bottleneck(in_channels, width, stride, shortcut, design)


def make_projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A shortcut that changes shape: a strided 1×1 convolution and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Figure 5, left: two 3×3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(x))


class Bottleneck(nn.Module):
    """Figure 5, right: 1×1 down to the inner width, 3×3 there (ResNeXt: in groups), 1×1 up to four times `width`."""

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module, design: Design) -> None:
        super().__init__()
        inner = width * design.width_per_group // 64 * design.groups
        out_channels = width * EXPANSION["bottleneck"]
        stride1, stride3 = (stride, 1) if design.stride_on == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride3, padding=1, groups=design.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + self.downsample(x))


def temper_residuals(network: nn.Module, blocks: int) -> None:
    """Start the BatchNorm that ends each of L = `blocks` residuals at 1/√L.

    Started at 1, every block about doubles the variance of an untrained network in eval mode: after the 50 blocks of
    ResNet-152 activations reach 10^10, and FP16 ends at 65504. Here they grow by a small factor in all. Training starts
    as gently as from the customary 0 (Goyal et al. 2017, arXiv 1706.02677, §5.1), which would remove the residuals from
    an untrained network.
    """
    for module in network.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            nn.init.constant_(last.weight, blocks**-0.5)


RESNET: Final = "He et al. 2015, arXiv 1512.03385, table 1"
RESNEXT: Final = "Xie et al. 2016, arXiv 1611.05431, table 1"
WIDE: Final = "Zagoruyko & Komodakis 2016, arXiv 1605.07146, table 8"


def define_resnet(
    name: str, family: str, paper: str, weights: str, resize: int = 256, **arguments: Argument
) -> Architecture:
    """One network; `resize` is the shorter side that its released weights were measured at."""
    trained = Preprocessing(resize=resize, height=224, width=224)
    return Architecture(
        name=name,
        family=family,
        paper=paper,
        build=ResNet,
        arguments={**arguments, "num_classes": 1000},
        preprocessing=IMAGENET,
        classifier="fc",
        inferred_arguments=(InferredArgument("num_classes", "fc.weight"),),
        pretrained=Pretrained(f"{weights}_Weights.IMAGENET1K_V1", trained),
    )


# Blocks per stage, by depth (table 1).
DEPTHS: Final = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

RESNET18: Final = define_resnet("resnet18", "ResNet", RESNET, "ResNet18", depths=DEPTHS[18], block="basic")
RESNET34: Final = define_resnet("resnet34", "ResNet", RESNET, "ResNet34", depths=DEPTHS[34], block="basic")
RESNET50: Final = define_resnet("resnet50", "ResNet", RESNET, "ResNet50", depths=DEPTHS[50], block="bottleneck")
RESNET101: Final = define_resnet("resnet101", "ResNet", RESNET, "ResNet101", depths=DEPTHS[101], block="bottleneck")
RESNET152: Final = define_resnet("resnet152", "ResNet", RESNET, "ResNet152", depths=DEPTHS[152], block="bottleneck")

RESNEXT50_32X4D: Final = define_resnet(
    "resnext50_32x4d", "ResNeXt", RESNEXT, "ResNeXt50_32X4D", depths=DEPTHS[50], groups=32, width_per_group=4
)
RESNEXT101_32X8D: Final = define_resnet(
    "resnext101_32x8d", "ResNeXt", RESNEXT, "ResNeXt101_32X8D", depths=DEPTHS[101], groups=32, width_per_group=8
)
RESNEXT101_64X4D: Final = define_resnet(
    "resnext101_64x4d",
    "ResNeXt",
    RESNEXT,
    "ResNeXt101_64X4D",
    232,
    depths=DEPTHS[101],
    groups=64,
    width_per_group=4,
)
WIDE_RESNET50_2: Final = define_resnet(
    "wide_resnet50_2", "Wide ResNet", WIDE, "Wide_ResNet50_2", depths=DEPTHS[50], width_per_group=128
)
WIDE_RESNET101_2: Final = define_resnet(
    "wide_resnet101_2", "Wide ResNet", WIDE, "Wide_ResNet101_2", depths=DEPTHS[101], width_per_group=128
)
