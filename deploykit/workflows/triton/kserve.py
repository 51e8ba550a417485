"""KServe's InferenceService for a repository: https://kserve.github.io/website/latest/reference/api/."""

from __future__ import annotations

import json
import re
from typing import Final

from deploykit.core.errors import UsageError
from deploykit.core.values import Value

SERVICE: Final = "inference-service.yaml"

NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""Service names that KServe accepts."""

URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


class Service(Value, frozen=True):
    """Name of the service in the cluster, and the address that it loads the repository from."""

    name: str
    storage_uri: str


def check_service(service: Service) -> Service:
    """Return the service; UsageError for a name or an address that KServe does not accept."""
    if not NAME.fullmatch(service.name):
        raise UsageError(
            f"{service.name!r} is not a valid service name: KServe accepts up to 63 lower-case letters, digits and "
            "hyphens, beginning with a letter.",
            "Give another with --service.",
        )
    if not URI.fullmatch(service.storage_uri):
        raise UsageError(
            f"KServe cannot load models from {service.storage_uri!r}.",
            "Give the address that the repository will be uploaded to, such as --storage-uri s3://bucket/models.",
        )
    return service


def format_service(service: Service, gpu: bool) -> str:
    """Format YAML for `kubectl apply -f`: one Triton server for all models in the repository, with the Open Inference
    Protocol, which KServe calls v2. KServe selects its Triton runtime by the model format.
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
