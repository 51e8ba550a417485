"""Defaults of an export, which depend on where its network comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from deploykit.core.values import ExportOptions, WeightsSource
from deploykit.export.opset import OPSETS


class NetworkDefaults(NamedTuple):
    """Name, weights and options of an export without options on the command line."""

    name: str
    """Name of the bundle: the part after the last slash or colon, without the file suffix."""
    weights: WeightsSource
    options: ExportOptions


def network_defaults(model: str) -> NetworkDefaults:
    """Return the defaults of the network that `model` names. Raises InputError for an ONNX file that cannot be read."""
    path = Path(model)
    if path.suffix.lower() == ".onnx":
        from deploykit.export.networks.onnx_source import default_batch, open_source

        source, options = open_source(model), ExportOptions()
        opset = max(options.opset, min(source.opset, OPSETS.stop - 1))
        return NetworkDefaults(path.stem, WeightsSource("own"), ExportOptions(default_batch(source), opset))
    if path.suffix.lower() == ".pt2":
        return NetworkDefaults(path.stem, WeightsSource("own"), ExportOptions())
    return NetworkDefaults(re.sub(r"[^\w.-]+", "-", model.rpartition(":")[2]), WeightsSource("random"), ExportOptions())
