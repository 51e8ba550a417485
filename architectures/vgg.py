"""VGG: stacks of 3×3 convolutions, each stack followed by 2×2 max pooling, then three fully connected layers.

Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv 1409.1556,
table 1.
The variants with BatchNorm after each convolution came after the paper (Ioffe & Szegedy 2015, arXiv 1502.03167).
State-dict names are torchvision's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from torch import Tensor, nn

from deploykit.core.values import Architecture, InferredArgument, Pretrained
from deploykit.export.architectures.arguments import require_at_least, require_share, require_sizes
from deploykit.export.architectures.initialization import initialize_weights
from deploykit.export.architectures.layers import IMAGENET

WIDTHS: Final = (64, 128, 256, 512, 512)
"""Channels of the five stacks; the same in every column of table 1."""

# Table 1: 3×3 convolutions per stack, by column. C, with its 1×1 convolutions, has no released weights.
A: Final = (1, 1, 2, 2, 2)
B: Final = (2, 2, 2, 2, 2)
D: Final = (2, 2, 3, 3, 3)
E: Final = (2, 2, 4, 4, 4)


class VGG(nn.Module):
    """N×3×H×W to N×num_classes; H and W at least 32, 224 in the paper."""

    def __init__(
        self,
        depths: tuple[int, ...] = D,
        batch_norm: bool = False,
        num_classes: int = 1000,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        require_sizes("VGG", depths=depths)
        require_at_least(1, "VGG", num_classes=num_classes)
        require_share("VGG", dropout=dropout)
        if len(depths) != len(WIDTHS):
            raise ValueError(f"VGG: depths names the convolutions of {len(WIDTHS)} stacks, not of {len(depths)}")
        stacks = zip(pairwise((3, *WIDTHS)), depths, strict=True)
        self.features = nn.Sequential(
            *(layer for (before, after), depth in stacks for layer in conv_stack(before, after, depth, batch_norm))
        )
        # 7×7 already at the paper's 224×224, where this is the identity; other sizes are pooled to what fc6 takes.
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        initialize_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # N×512×7×7
        x = self.avgpool(x)  # N×512×7×7
        x = x.flatten(1)  # N×25088
        return self.classifier(x)  # N×num_classes


def conv_stack(in_channels: int, out_channels: int, depth: int, batch_norm: bool) -> list[nn.Module]:
    """One cell of table 1: `depth` 3×3 convolutions of `out_channels`, then pooling that halves height and width."""
    layers: list[nn.Module] = []
    for channels in (in_channels, *[out_channels] * (depth - 1)):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU())
    return [*layers, nn.MaxPool2d(2)]


def define_vgg(name: str, column: str, depths: tuple[int, ...], weights: str, batch_norm: bool = False) -> Architecture:
    """One column of table 1, plain or with BatchNorm."""
    paper = f"Simonyan & Zisserman 2014, arXiv 1409.1556, table 1, column {column}"
    return Architecture(
        name=name,
        family="VGG",
        paper=f"{paper}; with BatchNorm" if batch_norm else paper,
        build=VGG,
        arguments={"depths": depths, "batch_norm": batch_norm, "num_classes": 1000},
        preprocessing=IMAGENET,
        classifier="classifier.6",
        inferred_arguments=(InferredArgument("num_classes", "classifier.6.weight"),),
        pretrained=Pretrained(f"{weights}_Weights.IMAGENET1K_V1", IMAGENET),
    )


VGG11: Final = define_vgg("vgg11", "A", A, "VGG11")
VGG13: Final = define_vgg("vgg13", "B", B, "VGG13")
VGG16: Final = define_vgg("vgg16", "D", D, "VGG16")
VGG19: Final = define_vgg("vgg19", "E", E, "VGG19")
VGG11_BN: Final = define_vgg("vgg11_bn", "A", A, "VGG11_BN", batch_norm=True)
VGG13_BN: Final = define_vgg("vgg13_bn", "B", B, "VGG13_BN", batch_norm=True)
VGG16_BN: Final = define_vgg("vgg16_bn", "D", D, "VGG16_BN", batch_norm=True)
VGG19_BN: Final = define_vgg("vgg19_bn", "E", E, "VGG19_BN", batch_norm=True)
