"""Model names, which are folders in the repository and parts of request URLs."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final

from deploykit.core.errors import UsageError
from deploykit.core.values import Precision

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def create_model_name(model: str, precision: Precision) -> str:
    """Create a model name: `resnet50-fp16`; a file's stem; `timm-resnet18.a1_in1k-fp16` for `timm:resnet18.a1_in1k`."""
    plain = PurePath(model).stem if model.endswith((".onnx", ".pt2")) else model
    return check_model_name(re.sub(r"[^A-Za-z0-9_.]+", "-", plain).strip("-.") + f"-{precision}")


def check_model_name(name: str) -> str:
    """Return `name` if it is valid as a folder and in a URL; else raise UsageError."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid model name: use up to 200 letters, digits, dots, hyphens and underscores.",
            "Give another with --name.",
        )
    return name
