"""FractalNet: networks that grow by one rule, f₁(z) = conv(z) and f_{C+1}(z) = [(f_C ∘ f_C)(z)] ⊕ [conv(z)].

Larsson, Maire & Shakhnarovich 2016, "FractalNet: Ultra-Deep Neural Networks without Residuals", arXiv 1605.07648, §3
and §4. ⊕ is the element-wise mean of all columns that meet there (figure 1). A block of C columns is 2^(C-1)
convolutions deep, a network of B blocks B·2^(C-1).

Parameters. A block holds 2^C - 1 convolutions of 3×3, C of which read its input: 9·(3·c_in·c + 4·c²) weights for C = 3.
FractalNet-20 thus has 33.72 M parameters, 4.9 M fewer than the 38.6 M of the paper's table 1, and the text mentions no
others. One reading fits: a 1×1 projection widens a block's input wherever its width changes, as the paper's thinner
columns are widened before joins. All seven convolutions are then c×c, 63·Σc² = 38.45 M, and the projections, the
BatchNorms and the classifier make it 38.65 M. This file follows the rule as it is written.

What the paper leaves open, and what this file does:

- FractalNet-40 of table 1 (22.9 M parameters) has thinner deep columns and a mix of 1×1 and 3×3 convolutions, which
  only a footnote sketches; `fractalnet40` is the plain expansion, at the widths of `fractalnet20`.
- FractalNet-34 shares its first and last layer with ResNet-34: here the 7×7 convolution with its 3×3 pooling, and
  global mean pooling with one linear layer. Global pooling takes the place of the fourth block's own.
- Dropout follows a block's pooling. On ImageNet, for which no rates are given, they are the first four of CIFAR's.
- Pooling follows the last join of a block, as in figure 1; the authors' code pools each column before that join.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from deploykit.core.values import Architecture, Argument, InferredArgument, Preprocessing
from deploykit.export.architectures.arguments import require_at_least, require_choice, require_share, require_sizes
from deploykit.export.architectures.initialization import initialize_weights
from deploykit.export.architectures.layers import CIFAR10, IMAGENET, ConvBNReLU

Join: TypeAlias = Callable[[list[Tensor]], Tensor]


class FractalNet(nn.Module):
    """N×3×H×W to N×num_classes; H and W at least 2^blocks (`stem="none"`) or 32 (`stem="resnet34"`).

    Columns are numbered from the shallowest (1: one convolution per block) to the deepest (`total_columns`). The
    module always has the parameters of all columns, so that one state dict fits every sub-network:

    `columns`: only the first so many columns run, 0 for all of them.
    `column`: only this column runs, 0 for all that `columns` selects.
    `drop_path`: in training, the probability that a join drops an input (§3.1, local).
    `global_share`: the share of training steps that run one column through the whole network instead (§3.1, global).
    `dropout_step`: dropout after block b (from 0) is b times this: 0 %, 10 %, 20 %, 30 %, 40 % in the paper.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        total_columns: int = 3,
        stem: Literal["none", "resnet34"] = "none",
        num_classes: int = 10,
        columns: int = 0,
        column: int = 0,
        drop_path: float = 0.15,
        global_share: float = 0.5,
        dropout_step: float = 0.1,
    ) -> None:
        super().__init__()
        require_sizes("FractalNet", widths=widths)
        require_at_least(1, "FractalNet", total_columns=total_columns, num_classes=num_classes)
        require_choice(("none", "resnet34"), "FractalNet", stem=stem)
        require_choice(range(total_columns + 1), "FractalNet", columns=columns, column=column)
        require_share("FractalNet", drop_path=drop_path)
        if not 0 <= global_share <= 1:
            raise ValueError(f"FractalNet: global_share is from 0 to 1, not {global_share}")
        if not 0 <= dropout_step * (len(widths) - 1) < 1:
            raise ValueError(
                f"FractalNet: {len(widths)} blocks take a dropout_step from 0 to below "
                f"{1 / (len(widths) - 1):.3g}, not {dropout_step}"
            )
        if columns and column:
            raise ValueError(f"FractalNet: columns={columns} and column={column} exclude each other; leave one at 0")

        self.active = (column,) if column else tuple(range(1, (columns or total_columns) + 1))
        self.drop_path = drop_path
        self.global_share = global_share
        self.stem = nn.Sequential() if stem == "none" else resnet34_stem()
        entries = (3 if stem == "none" else 64, *widths)
        self.blocks = nn.ModuleList(
            Fractal(before, after, total_columns) for before, after in zip(entries, widths, strict=False)
        )
        pools = [nn.MaxPool2d(2) for _ in widths[1:]]
        last = nn.MaxPool2d(2) if stem == "none" else nn.Identity()
        self.pools = nn.ModuleList([*pools, last])
        self.dropouts = nn.ModuleList(nn.Dropout(index * dropout_step) for index in range(len(widths)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes)
        initialize_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        active, join = self.sample_paths() if self.training else (self.active, join_mean)
        x = self.stem(x)  # ImageNet: N×64×56×56; CIFAR-10: N×3×32×32
        for block, pool, dropout in zip(self.blocks, self.pools, self.dropouts, strict=True):
            # CIFAR-10: N×64×16×16, 128×8×8, 256×4×4, 512×2×2, 512×1×1
            # ImageNet: N×128×28×28, 256×14×14, 512×7×7, 1024×7×7
            x = dropout(pool(join(block(x, active, join))))
        x = self.avgpool(x).flatten(1)  # N×512; ImageNet: N×1024
        return self.classifier(x)  # N×num_classes

    def sample_paths(self) -> tuple[tuple[int, ...], Join]:
        """Draw the sub-network of one training step: one column throughout, or all columns with some join inputs
        dropped.
        """
        if torch.rand((), device="cpu") < self.global_share:
            choice = int(torch.randint(len(self.active), (), device="cpu"))
            return (self.active[choice],), join_mean
        return self.active, lambda inputs: join_mean(drop_inputs(inputs, self.drop_path))


class Fractal(nn.Module):
    """f_C, before its last join: N×c_in×H×W to the outputs of all active columns, N×c×H×W each, deepest first.

    Leaving the join to the caller flattens it: ((a ⊕ b) ⊕ c) would weigh a and b less than c.
    """

    def __init__(self, in_channels: int, channels: int, columns: int, column: int = 1) -> None:
        super().__init__()
        self.column = column
        self.halves = nn.ModuleList(
            Fractal(entry, channels, columns - 1, column + 1) for entry in (in_channels, channels) if columns > 1
        )
        self.conv = ConvBNReLU(in_channels, channels, 3)

    def forward(self, z: Tensor, active: tuple[int, ...], join: Join) -> list[Tensor]:
        outputs = []
        if self.column < active[-1]:  # a deeper column runs
            first, second = self.halves
            outputs = second(join(first(z, active, join)), active, join)
        if self.column in active:
            outputs.append(self.conv(z))
        return outputs


def join_mean(inputs: list[Tensor]) -> Tensor:
    """⊕: plain additions and one division by n, which a graph pass can fold; a single input is returned as it is."""
    return reduce(add, inputs) / len(inputs) if len(inputs) > 1 else inputs[0]


def drop_inputs(inputs: list[Tensor], drop_path: float) -> list[Tensor]:
    """Drop each input of a join with probability `drop_path`; if all would be dropped, one at random remains (§3.1)."""
    draws = torch.rand(len(inputs), device="cpu")
    remaining = [x for x, draw in zip(inputs, draws, strict=True) if draw >= drop_path]
    return remaining or [inputs[int(torch.randint(len(inputs), (), device="cpu"))]]


def resnet34_stem() -> nn.Sequential:
    """N×3×224×224 to N×64×56×56."""
    return nn.Sequential(ConvBNReLU(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, padding=1))


def define_fractalnet(name: str, paper: str, preprocessing: Preprocessing, **arguments: Argument) -> Architecture:
    """One network; the number of `widths` is B, the number of blocks."""
    return Architecture(
        name=name,
        family="FractalNet",
        paper=f"Larsson, Maire & Shakhnarovich 2016, arXiv 1605.07648, {paper}",
        build=FractalNet,
        arguments=arguments,
        preprocessing=preprocessing,
        classifier="classifier",
        inferred_arguments=(InferredArgument("num_classes", "classifier.weight"),),
    )


CIFAR_WIDTHS: Final = (64, 128, 256, 512, 512)

FRACTALNET20: Final = define_fractalnet(
    "fractalnet20", "table 1 (B=5, C=3)", CIFAR10, widths=CIFAR_WIDTHS, total_columns=3, num_classes=10
)
FRACTALNET40: Final = define_fractalnet(
    "fractalnet40", "§3 (B=5, C=4)", CIFAR10, widths=CIFAR_WIDTHS, total_columns=4, num_classes=10
)
FRACTALNET34: Final = define_fractalnet(
    "fractalnet34",
    "table 2 (B=4, C=4)",
    IMAGENET,
    widths=(128, 256, 512, 1024),
    total_columns=4,
    stem="resnet34",
    num_classes=1000,
)
