"""The networks, in plain PyTorch, each family a file that is read beside its paper.

`CATALOG` names them without importing any: "module:ATTRIBUTE" leads to a `deploykit.values.Architecture`. What
`deploykit list` prints of each stands in `catalog.json`, which `scripts/update_generated` writes.
"""

from __future__ import annotations

from typing import Final

CATALOG: Final[dict[str, str]] = {
    "vgg11": "architectures.vgg:VGG11",
    "vgg13": "architectures.vgg:VGG13",
    "vgg16": "architectures.vgg:VGG16",
    "vgg19": "architectures.vgg:VGG19",
    "vgg11_bn": "architectures.vgg:VGG11_BN",
    "vgg13_bn": "architectures.vgg:VGG13_BN",
    "vgg16_bn": "architectures.vgg:VGG16_BN",
    "vgg19_bn": "architectures.vgg:VGG19_BN",
    "nin_cifar10": "architectures.nin:NIN_CIFAR10",
    "nin_imagenet": "architectures.nin:NIN_IMAGENET",
    "googlenet": "architectures.googlenet:GOOGLENET",
    "resnet18": "architectures.resnet:RESNET18",
    "resnet34": "architectures.resnet:RESNET34",
    "resnet50": "architectures.resnet:RESNET50",
    "resnet101": "architectures.resnet:RESNET101",
    "resnet152": "architectures.resnet:RESNET152",
    "resnext50_32x4d": "architectures.resnet:RESNEXT50_32X4D",
    "resnext101_32x8d": "architectures.resnet:RESNEXT101_32X8D",
    "resnext101_64x4d": "architectures.resnet:RESNEXT101_64X4D",
    "wide_resnet50_2": "architectures.resnet:WIDE_RESNET50_2",
    "wide_resnet101_2": "architectures.resnet:WIDE_RESNET101_2",
    "densenet121": "architectures.densenet:DENSENET121",
    "densenet161": "architectures.densenet:DENSENET161",
    "densenet169": "architectures.densenet:DENSENET169",
    "densenet201": "architectures.densenet:DENSENET201",
    "densenet264": "architectures.densenet:DENSENET264",
    "fractalnet20": "architectures.fractalnet:FRACTALNET20",
    "fractalnet40": "architectures.fractalnet:FRACTALNET40",
    "fractalnet34": "architectures.fractalnet:FRACTALNET34",
}
