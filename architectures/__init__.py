"""The catalog's networks in plain PyTorch, one file per family, written to be read next to its paper.

`CATALOG` maps names to "module:ATTRIBUTE" of a `deploykit.core.values.Architecture`, without importing any network. The
figures that `deploykit list` prints are in `catalog.json`, which `scripts/update_generated` writes.
"""

from __future__ import annotations

from typing import Final

CATALOG: Final[dict[str, str]] = {
    "vgg11": "deploykit.export.architectures.vgg:VGG11",
    "vgg13": "deploykit.export.architectures.vgg:VGG13",
    "vgg16": "deploykit.export.architectures.vgg:VGG16",
    "vgg19": "deploykit.export.architectures.vgg:VGG19",
    "vgg11_bn": "deploykit.export.architectures.vgg:VGG11_BN",
    "vgg13_bn": "deploykit.export.architectures.vgg:VGG13_BN",
    "vgg16_bn": "deploykit.export.architectures.vgg:VGG16_BN",
    "vgg19_bn": "deploykit.export.architectures.vgg:VGG19_BN",
    "nin_cifar10": "deploykit.export.architectures.nin:NIN_CIFAR10",
    "nin_imagenet": "deploykit.export.architectures.nin:NIN_IMAGENET",
    "googlenet": "deploykit.export.architectures.googlenet:GOOGLENET",
    "resnet18": "deploykit.export.architectures.resnet:RESNET18",
    "resnet34": "deploykit.export.architectures.resnet:RESNET34",
    "resnet50": "deploykit.export.architectures.resnet:RESNET50",
    "resnet101": "deploykit.export.architectures.resnet:RESNET101",
    "resnet152": "deploykit.export.architectures.resnet:RESNET152",
    "resnext50_32x4d": "deploykit.export.architectures.resnet:RESNEXT50_32X4D",
    "resnext101_32x8d": "deploykit.export.architectures.resnet:RESNEXT101_32X8D",
    "resnext101_64x4d": "deploykit.export.architectures.resnet:RESNEXT101_64X4D",
    "wide_resnet50_2": "deploykit.export.architectures.resnet:WIDE_RESNET50_2",
    "wide_resnet101_2": "deploykit.export.architectures.resnet:WIDE_RESNET101_2",
    "densenet121": "deploykit.export.architectures.densenet:DENSENET121",
    "densenet161": "deploykit.export.architectures.densenet:DENSENET161",
    "densenet169": "deploykit.export.architectures.densenet:DENSENET169",
    "densenet201": "deploykit.export.architectures.densenet:DENSENET201",
    "densenet264": "deploykit.export.architectures.densenet:DENSENET264",
    "fractalnet20": "deploykit.export.architectures.fractalnet:FRACTALNET20",
    "fractalnet40": "deploykit.export.architectures.fractalnet:FRACTALNET40",
    "fractalnet34": "deploykit.export.architectures.fractalnet:FRACTALNET34",
}
