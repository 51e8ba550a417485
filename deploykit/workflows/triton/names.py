"""Names of models: folders in a repository, and words in the addresses that clients ask."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final

from deploykit.core.errors import UsageError
from deploykit.core.values import Precision

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def of_bundle(model: str, precision: Precision) -> str:
    """`resnet50-fp16`; of a file its name, of `timm:resnet18.a1_in1k` `timm-resnet18.a1_in1k-fp16`."""
    plain = PurePath(model).stem if model.endswith((".onnx", ".pt2")) else model
    return checked(re.sub(r"[^A-Za-z0-9_.]+", "-", plain).strip("-.") + f"-{precision}")


def checked(name: str) -> str:
    """`name`, where it can be a folder and stand in an address as it is; UsageError where not."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"A model cannot be called {name!r}: a name is up to 200 letters, digits, points, hyphens and underscores.",
            "Give another with --name.",
        )
    return name
