"""Network in Network: convolutions followed by 1×1 convolutions (an MLP slid over the image), and no dense layer.

Lin, Chen & Yan 2013, "Network In Network", arXiv 1312.4400, §3 and figure 2. The text leaves the sizes open; they are
those of the Caffe models that its first author released. Pooling rounds up, as Caffe's does: 32 → 16 → 8, and
54 → 27 → 13 → 6.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from deploykit.core.values import Architecture, InferredArgument, Preprocessing
from deploykit.export.architectures.arguments import require_at_least, require_choice, require_share
from deploykit.export.architectures.initialization import initialize_weights
from deploykit.export.architectures.layers import CIFAR10, IMAGENET


class MLPConv(NamedTuple):
    """One mlpconv layer: a convolution and two 1×1 convolutions; then pooling and dropout before the next."""

    channels: tuple[int, int, int]
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: Literal["max", "mean", "none"] = "none"
    dropout: bool = False


# The last width of the last layer is the number of classes; it is 0 here.
CIFAR10_LAYERS: Final = (
    MLPConv((192, 160, 96), kernel=5, padding=2, pool="max", dropout=True),
    MLPConv((192, 192, 192), kernel=5, padding=2, pool="mean", dropout=True),
)
CIFAR10_LAST: Final = MLPConv((192, 192, 0), kernel=3, padding=1)

IMAGENET_LAYERS: Final = (
    MLPConv((96, 96, 96), kernel=11, stride=4, pool="max"),
    MLPConv((256, 256, 256), kernel=5, padding=2, pool="max"),
    MLPConv((384, 384, 384), kernel=3, padding=1, pool="max", dropout=True),
)
IMAGENET_LAST: Final = MLPConv((1024, 1024, 0), kernel=3, padding=1)

LAYERS: Final = {"cifar10": (CIFAR10_LAYERS, CIFAR10_LAST), "imagenet": (IMAGENET_LAYERS, IMAGENET_LAST)}


class NiN(nn.Module):
    """N×3×H×W to N×num_classes, for 32×32 (`cifar10`) or 224×224 (`imagenet`) and anything larger.

    `rectified_scores`: ReLU after the last 1×1 convolution, as in equation 2 of the paper; every logit is
    then ≥ 0.
    """

    def __init__(
        self,
        table: Literal["cifar10", "imagenet"] = "cifar10",
        num_classes: int = 10,
        dropout: float = 0.5,
        rectified_scores: bool = True,
    ) -> None:
        super().__init__()
        require_choice(LAYERS, "NiN", table=table)
        require_at_least(1, "NiN", num_classes=num_classes)
        require_share("NiN", dropout=dropout)
        layers, last = LAYERS[table]
        self.features = nn.Sequential()
        channels = 3
        for layer in layers:
            self.features.extend([*mlpconv_layers(channels, layer), *pool_and_dropout(layer, dropout)])
            channels = layer.channels[-1]
        self.features.extend(mlpconv_layers(channels, last))
        self.classifier = nn.Conv2d(last.channels[1], num_classes, 1)
        self.rectified_scores = rectified_scores
        self.pool = nn.AdaptiveAvgPool2d(1)
        initialize_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # CIFAR-10: N×192×8×8; ImageNet: N×1024×6×6
        x = self.classifier(x)  # one map per class: N×num_classes×8×8; N×num_classes×6×6
        if self.rectified_scores:
            x = F.relu(x)
        x = self.pool(x)  # N×num_classes×1×1
        return x.flatten(1)  # N×num_classes


def mlpconv_layers(in_channels: int, layer: MLPConv) -> list[nn.Module]:
    """A convolution and its 1×1 convolutions, each followed by ReLU; a width of 0 is the classifier, built apart."""
    first, *others = layer.channels
    modules = [nn.Conv2d(in_channels, first, layer.kernel, layer.stride, layer.padding), nn.ReLU()]
    for before, after in zip(layer.channels, others, strict=False):
        if after:
            modules += [nn.Conv2d(before, after, 1), nn.ReLU()]
    return modules


def pool_and_dropout(layer: MLPConv, dropout: float) -> list[nn.Module]:
    """Pooling (3×3, stride 2) and dropout after one mlpconv layer."""
    pools: dict[str, list[nn.Module]] = {
        "max": [nn.MaxPool2d(3, 2, ceil_mode=True)],
        "mean": [nn.AvgPool2d(3, 2, ceil_mode=True)],
        "none": [],
    }
    return pools[layer.pool] + ([nn.Dropout(dropout)] if layer.dropout else [])


def define_nin(name: str, paper: str, table: str, num_classes: int, preprocessing: Preprocessing) -> Architecture:
    """One of the two published networks."""
    return Architecture(
        name=name,
        family="NiN",
        paper=f"Lin, Chen & Yan 2013, arXiv 1312.4400, {paper}",
        build=NiN,
        arguments={"table": table, "num_classes": num_classes},
        preprocessing=preprocessing,
        classifier="classifier",
        inferred_arguments=(InferredArgument("num_classes", "classifier.weight"),),
    )


NIN_CIFAR10: Final = define_nin("nin_cifar10", "§4.2", "cifar10", 10, CIFAR10)
NIN_IMAGENET: Final = define_nin("nin_imagenet", "§3 (sizes: BVLC model zoo)", "imagenet", 1000, IMAGENET)
