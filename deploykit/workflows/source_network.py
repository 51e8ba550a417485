"""The network that a bundle came from, found again: what its parity is judged beside once more."""

from __future__ import annotations

from pathlib import Path

import msgspec

from deploykit.backends import backend as find_backend
from deploykit.bundle.manifest import Manifest
from deploykit.core.errors import InputError
from deploykit.core.values import Progress
from deploykit.export.networks import Network, open_network
from deploykit.export.networks.weights_source import parse_weights


def origin(folder: Path, manifest: Manifest, weights: str | None, progress: Progress) -> Network:
    """The network that a bundle was exported from, with the weights that `weights` names, or those of the request.

    InputError where these are others than the bundle's.
    """
    asked = manifest.request
    source = asked.weights if weights is None else parse_weights(weights, asked.weights.seed)
    built = open_network(msgspec.structs.replace(asked, weights=source), find_backend)
    with progress.step(f"building {asked.model}"):
        found = built.weights
    if found.sha256 != manifest.weights.sha256:
        raise InputError(
            f"{folder} was exported from other weights ({manifest.weights.source}, {manifest.weights.sha256[:12]}…) "
            f"than these ({found.source}, {found.sha256[:12]}…).",
            "Random weights come out otherwise on another machine or in another version: export it again."
            if source.kind == asked.weights.kind == "random"
            else "Name the checkpoint that it was exported from with --weights.",
        )
    return built
