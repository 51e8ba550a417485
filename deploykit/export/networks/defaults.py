"""What holds of an export where the user does not say it, by where its network comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from deploykit.core.values import ExportOptions, WeightsSource
from deploykit.export.opset import OPSETS


class Defaults(NamedTuple):
    """Of one network."""

    name: str
    """For a folder: what lies behind the last slash or colon, without an ending."""
    weights: WeightsSource
    options: ExportOptions


def defaults(model: str) -> Defaults:
    """Of the network that `model` names. InputError for an ONNX file that cannot be read."""
    path = Path(model)
    if path.suffix.lower() == ".onnx":
        from deploykit.export.networks.onnx_source import batch_sizes, open_source

        source, usual = open_source(model), ExportOptions()
        opset = max(usual.opset, min(source.opset, OPSETS.stop - 1))
        return Defaults(path.stem, WeightsSource("own"), ExportOptions(batch_sizes(source), opset))
    if path.suffix.lower() == ".pt2":
        return Defaults(path.stem, WeightsSource("own"), ExportOptions())
    return Defaults(re.sub(r"[^\w.-]+", "-", model.rpartition(":")[2]), WeightsSource("random"), ExportOptions())
