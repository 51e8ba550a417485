"""KServe's InferenceService for a repository: https://kserve.github.io/website/latest/reference/api/."""

from __future__ import annotations

import json
import re
from typing import Final

from deploykit.core.errors import UsageError
from deploykit.core.values import Value

SERVICE: Final = "inference-service.yaml"

NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""What KServe takes for the name of a service."""

URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


class Service(Value, frozen=True):
    """What a cluster calls the server, and where it fetches the repository from."""

    name: str
    storage_uri: str


def checked(service: Service) -> Service:
    """UsageError for a name or an address that KServe does not take."""
    if not NAME.fullmatch(service.name):
        raise UsageError(
            f"{service.name!r} cannot be the name of a service: KServe takes up to 63 small letters, digits and "
            "hyphens, the first a letter.",
            "Give another with --service.",
        )
    if not URI.fullmatch(service.storage_uri):
        raise UsageError(
            f"KServe cannot fetch from {service.storage_uri!r}.",
            "Give where the repository will be uploaded to, such as --storage-uri s3://bucket/models.",
        )
    return service


def text(service: Service, gpu: bool) -> str:
    """YAML for `kubectl apply -f`: one Triton server for every model in the repository. It answers the Open Inference
    Protocol, which KServe calls v2; KServe finds its runtime for Triton by the model's format.
    """
    lines = [
        "# Written by deploykit. Upload this folder to storageUri, then kubectl apply -f this file.",
        "apiVersion: serving.kserve.io/v1beta1",
        "kind: InferenceService",
        "metadata:",
        f"  name: {service.name}",
        "spec:",
        "  predictor:",
        "    model:",
        "      modelFormat:",
        "        name: triton",
        "      protocolVersion: v2",
        f"      storageUri: {json.dumps(service.storage_uri)}",
    ]
    if gpu:
        lines += ["      resources:", "        limits:", '          nvidia.com/gpu: "1"']
    return "\n".join(lines) + "\n"
