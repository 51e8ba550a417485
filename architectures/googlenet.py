"""GoogLeNet: nine inception modules of four branches each, and two auxiliary classifiers that run in training only.

Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv 1409.4842, table 1 and §5. BatchNorm replaces the
paper's local response normalization, as in every trained release since (Ioffe & Szegedy 2015, arXiv 1502.03167).
State-dict names are torchvision's.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploykit.core.values import Architecture, InferredArgument, Preprocessing, Pretrained
from deploykit.export.architectures.arguments import require_at_least, require_choice, require_share
from deploykit.export.architectures.initialization import initialize_weights
from deploykit.export.architectures.layers import IMAGENET, ConvBNReLU


class Widths(NamedTuple):
    """One row of table 1: channels of the four branches; `reduce3` and `reduce5` are the 1×1 before the 3×3 and 5×5."""

    conv1: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    pool: int

    @property
    def out_channels(self) -> int:
        return self.conv1 + self.conv3 + self.conv5 + self.pool


TABLE: Final = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}

LAST_POOL: Final = {5: 3, 3: 2}
"""Kernel of the pooling before 5a, by kernel of the third branch. The paper pools 3×3 everywhere; the network whose
weights torchvision publishes has 3×3 convolutions in the third branch, by an old mistake, and pools 2×2 there. Pooling
has no weights, so the third branch of a checkpoint determines it."""

EPSILON: Final = 1e-3
"""BatchNorm's, as the released weights were trained."""


class GoogLeNet(nn.Module):
    """N×3×H×W to N×num_classes; H and W at least 32 in eval mode, 224 in the paper.

    In training mode the result is `(logits, aux2, aux1)`; the paper adds the auxiliary losses with weight 0.3.
    """

    def __init__(
        self,
        branch3_kernel: Literal[3, 5] = 5,
        num_classes: int = 1000,
        dropout: float = 0.4,
        dropout_aux: float = 0.7,
    ) -> None:
        super().__init__()
        require_choice(LAST_POOL, "GoogLeNet", branch3_kernel=branch3_kernel)
        require_at_least(1, "GoogLeNet", num_classes=num_classes)
        require_share("GoogLeNet", dropout=dropout, dropout_aux=dropout_aux)

        self.conv1 = ConvBNReLU(3, 64, 7, stride=2, epsilon=EPSILON)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvBNReLU(64, 64, 1, epsilon=EPSILON)
        self.conv3 = ConvBNReLU(64, 192, 3, epsilon=EPSILON)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, TABLE["3a"], branch3_kernel)
        self.inception3b = Inception(256, TABLE["3b"], branch3_kernel)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, TABLE["4a"], branch3_kernel)
        self.inception4b = Inception(512, TABLE["4b"], branch3_kernel)
        self.inception4c = Inception(512, TABLE["4c"], branch3_kernel)
        self.inception4d = Inception(512, TABLE["4d"], branch3_kernel)
        self.inception4e = Inception(528, TABLE["4e"], branch3_kernel)
        self.maxpool4 = nn.MaxPool2d(LAST_POOL[branch3_kernel], 2, ceil_mode=True)
        self.inception5a = Inception(832, TABLE["5a"], branch3_kernel)
        self.inception5b = Inception(832, TABLE["5b"], branch3_kernel)
        self.aux1 = AuxiliaryHead(512, num_classes, dropout_aux)
        self.aux2 = AuxiliaryHead(528, num_classes, dropout_aux)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        initialize_weights(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        x = self.maxpool1(self.conv1(x))  # N×64×56×56
        x = self.maxpool2(self.conv3(self.conv2(x)))  # N×192×28×28
        x = self.inception3b(self.inception3a(x))  # N×480×28×28
        after_4a = self.inception4a(self.maxpool3(x))  # N×512×14×14
        after_4d = self.inception4d(self.inception4c(self.inception4b(after_4a)))  # N×528×14×14
        x = self.maxpool4(self.inception4e(after_4d))  # N×832×7×7
        x = self.inception5b(self.inception5a(x))  # N×1024×7×7
        logits = self.fc(self.dropout(self.avgpool(x).flatten(1)))  # N×num_classes
        if self.training:
            return logits, self.aux2(after_4d), self.aux1(after_4a)
        return logits


class Inception(nn.Module):
    """Figure 2b: 1×1, 3×3, 5×5 and pooling in parallel, concatenated along the channels."""

    def __init__(self, in_channels: int, widths: Widths, branch3_kernel: int) -> None:
        super().__init__()
        self.branch1 = ConvBNReLU(in_channels, widths.conv1, 1, epsilon=EPSILON)
        self.branch2 = nn.Sequential(
            ConvBNReLU(in_channels, widths.reduce3, 1, epsilon=EPSILON),
            ConvBNReLU(widths.reduce3, widths.conv3, 3, epsilon=EPSILON),
        )
        self.branch3 = nn.Sequential(
            ConvBNReLU(in_channels, widths.reduce5, 1, epsilon=EPSILON),
            ConvBNReLU(widths.reduce5, widths.conv5, branch3_kernel, epsilon=EPSILON),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1),
            ConvBNReLU(in_channels, widths.pool, 1, epsilon=EPSILON),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """§5: a small classifier on the output of 4a or 4d, which feeds gradient into the middle of the network."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, 128, 1, epsilon=EPSILON)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 4)  # N×in_channels×4×4: the paper's 5×5 pooling of 14×14, and any other size
        x = self.conv(x).flatten(1)  # N×2048
        x = self.dropout(F.relu(self.fc1(x)))  # N×1024
        return self.fc2(x)  # N×num_classes


# The released weights expect pixels in [-1, 1]: torchvision rescales inside the module (`transform_input`), which is a
# mean and standard deviation of 0.5. Here it is part of the preprocessing.
RELEASED: Final = Preprocessing(resize=256, height=224, width=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

GOOGLENET: Final = Architecture(
    name="googlenet",
    family="GoogLeNet",
    paper="Szegedy et al. 2014, arXiv 1409.4842, table 1; with BatchNorm",
    build=GoogLeNet,
    arguments={"branch3_kernel": 5, "num_classes": 1000},
    preprocessing=IMAGENET,
    classifier="fc",
    training_only=("aux1", "aux2"),
    inferred_arguments=(
        InferredArgument("num_classes", "fc.weight"),
        InferredArgument("branch3_kernel", "inception3a.branch3.1.conv.weight", axis=2),
    ),
    pretrained=Pretrained("GoogLeNet_Weights.IMAGENET1K_V1", RELEASED, {"branch3_kernel": 3}),
)
