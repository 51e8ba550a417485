"""The block that several networks share, and the preprocessing of ImageNet and CIFAR-10."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from deploykit.core.values import Preprocessing

IMAGENET: Final = Preprocessing(resize=256, height=224, width=224)
"""224×224 RGB, normalized by the mean and deviation of ImageNet's pixels."""

CIFAR10: Final = Preprocessing(
    resize=32, height=32, width=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
"""32×32 RGB, normalized by the mean and deviation of CIFAR-10's training pixels."""


class ConvBNReLU(nn.Module):
    """Convolution without bias, BatchNorm (which has one), ReLU; 'same' padding for odd kernels."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))
