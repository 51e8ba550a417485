"""DenseNet: every layer of a block reads the block's input and the outputs of all layers before it.

Huang, Liu, van der Maaten & Weinberger 2016, "Densely Connected Convolutional Networks", arXiv 1608.06993, table 1 and
§3: the DenseNet-BC variants (bottleneck layers, compression between blocks). State-dict names are torchvision's, which
has no 264.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploykit.core.values import Architecture, InferredArgument, Pretrained
from deploykit.export.architectures.arguments import require_at_least, require_share, require_sizes
from deploykit.export.architectures.initialization import initialize_weights
from deploykit.export.architectures.layers import IMAGENET


class DenseNet(nn.Module):
    """N×3×H×W to N×num_classes; H and W at least 32, 224 in the paper.

    `growth_rate` (k): channels that each layer adds; the first convolution has 2k (§4.1, "implementation details").
    `blocks`: layers per dense block.
    `bottleneck`: output channels of the 1×1 before each 3×3, as a multiple of k (4 in DenseNet-B).
    `compression` (θ): output channels of a transition, as a share of its input (0.5 in DenseNet-C, 1 keeps all).
    """

    def __init__(
        self,
        growth_rate: int = 32,
        blocks: tuple[int, ...] = (6, 12, 24, 16),
        bottleneck: int = 4,
        compression: float = 0.5,
        dropout: float = 0.0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        require_at_least(1, "DenseNet", growth_rate=growth_rate, bottleneck=bottleneck, num_classes=num_classes)
        require_sizes("DenseNet", blocks=blocks)
        require_share("DenseNet", dropout=dropout)
        if not 0 < compression <= 1:
            raise ValueError(f"DenseNet: compression is above 0 and at most 1, not {compression}")

        channels = 2 * growth_rate
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(channels)
        self.features.relu0 = nn.ReLU()
        self.features.pool0 = nn.MaxPool2d(3, 2, padding=1)
        for number, layers in enumerate(blocks, start=1):
            block = DenseBlock(channels, growth_rate, layers, bottleneck, dropout)
            self.features.add_module(f"denseblock{number}", block)
            channels += layers * growth_rate
            if number < len(blocks):
                compressed = int(channels * compression)
                if compressed < 1:
                    raise ValueError(
                        f"DenseNet: compression={compression} leaves none of {channels} channels; raise it"
                    )
                self.features.add_module(f"transition{number}", Transition(channels, compressed))
                channels = compressed
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        initialize_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # DenseNet-121: N×64×56×56, blocks N×256×56×56, 512×28×28, 1024×14×14, N×1024×7×7
        x = F.relu(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # N×1024
        return self.classifier(x)  # N×num_classes


class DenseBlock(nn.ModuleDict):
    """N×C×H×W to N×(C + layers·k)×H×W: the input and every layer's output, concatenated."""

    def __init__(self, in_channels: int, growth_rate: int, layers: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        for index in range(layers):
            channels = in_channels + index * growth_rate
            self[f"denselayer{index + 1}"] = DenseLayer(channels, growth_rate, bottleneck, dropout)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(x))
            # One flat Concat of everything so far, not a Concat of Concats: its inputs can share one INT8 scale.
            x = torch.cat(features, 1)
        return x


class DenseLayer(nn.Module):
    """§3, "bottleneck layers": BN-ReLU-1×1-BN-ReLU-3×3, from all earlier channels to `growth_rate` new ones."""

    def __init__(self, in_channels: int, growth_rate: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, bottleneck * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth_rate)
        self.conv2 = nn.Conv2d(bottleneck * growth_rate, growth_rate, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(self.norm1(x)))
        x = self.conv2(F.relu(self.norm2(x)))
        return self.dropout(x)


class Transition(nn.Module):
    """§3, "pooling layers" and "compression": BN-ReLU-1×1 to `out_channels`, then 2×2 mean pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(F.relu(self.norm(x))))


def define_densenet(depth: int, growth_rate: int, blocks: tuple[int, ...], released: bool = True) -> Architecture:
    """One column of table 1."""
    return Architecture(
        name=f"densenet{depth}",
        family="DenseNet",
        paper=f"Huang et al. 2016, arXiv 1608.06993, {'table 1' if growth_rate == 32 else '§4.4'}",
        build=DenseNet,
        arguments={"growth_rate": growth_rate, "blocks": blocks, "num_classes": 1000},
        preprocessing=IMAGENET,
        classifier="classifier",
        inferred_arguments=(InferredArgument("num_classes", "classifier.weight"),),
        pretrained=Pretrained(f"DenseNet{depth}_Weights.IMAGENET1K_V1", IMAGENET) if released else None,
    )


DENSENET121: Final = define_densenet(121, 32, (6, 12, 24, 16))
DENSENET161: Final = define_densenet(161, 48, (6, 12, 36, 24))
DENSENET169: Final = define_densenet(169, 32, (6, 12, 32, 32))
DENSENET201: Final = define_densenet(201, 32, (6, 12, 48, 32))
DENSENET264: Final = define_densenet(264, 32, (6, 12, 64, 48), released=False)
