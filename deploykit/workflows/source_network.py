"""Rebuild the network that a bundle was exported from, to run it as the reference again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from deploykit.backends import create_backend
from deploykit.bundle.manifest import Manifest
from deploykit.core.errors import InputError
from deploykit.core.values import Progress
from deploykit.export.networks import Network, open_network
from deploykit.export.networks.weights_source import parse_weights


def rebuild_source_network(folder: Path, manifest: Manifest, weights: str | None, progress: Progress) -> Network:
    """The network of the bundle's export request, with the weights that `weights` names, or else the request's.

    InputError where the weights are not those of the bundle.
    """
    request = manifest.request
    source = request.weights if weights is None else parse_weights(weights, request.weights.seed)
    network = open_network(msgspec.structs.replace(request, weights=source), create_backend)
    with progress.step(f"building {request.model}"):
        rebuilt = network.weights
    if rebuilt.sha256 != manifest.weights.sha256:
        raise InputError(
            f"{folder} was exported from other weights ({manifest.weights.source}, {manifest.weights.sha256[:12]}…) "
            f"than these ({rebuilt.source}, {rebuilt.sha256[:12]}…).",
            "Random weights differ between machines and library versions: export the bundle again."
            if source.kind == request.weights.kind == "random"
            else "Name the checkpoint that it was exported from with --weights.",
        )
    return network
