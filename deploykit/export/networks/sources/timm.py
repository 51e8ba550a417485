"""timm's classifiers, as NAME or NAME.TAG, with the preprocessing of their pretrained configuration."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deploykit.core.error_text import root_cause
from deploykit.core.errors import InputError
from deploykit.core.values import Architecture, Argument, InferredArgument, Preprocessing, Pretrained
from deploykit.export.networks.sources.outline import build_outline, with_signature
from deploykit.export.networks.sources.registered import describe_unknown_name, library_version, registered_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

LIBRARY: Final = "timm"

PERMISSIVE_LICENCES: Final = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0", None, "")
"""Licences of weights that need no note."""


def list_models() -> dict[str, str]:
    """Map the name of each registered architecture to its file in timm."""
    return registered_models(LIBRARY, "timm")


def require_known_model(name: str) -> None:
    """Raise InputError, with the nearest names, for an architecture that timm does not have. Does not check the tag."""
    network = name.partition(".")[0]
    if network not in list_models():
        raise InputError(
            describe_unknown_name(LIBRARY, network, list_models()),
            "timm.list_models('*WORD*') searches all names; a tag follows a dot.",
        )


def network_identity(name: str) -> str:
    """Return the name and the version of timm."""
    return f"{LIBRARY}:{name} of {library_version(LIBRARY)}"


def find_architecture(name: str) -> Architecture:
    """Describe one of timm's networks. Downloads nothing."""
    configuration = _pretrained_config(name)
    channels, height, width = configuration.input_size
    if channels != 3:
        raise InputError(f"timm:{name} needs {channels} channels, and images have 3.", "Choose another network.")
    network = type(build_outline(partial(_create_model, name)))
    spec = Preprocessing(
        resize=max(_resized_side(configuration), height, width),
        height=height,
        width=width,
        mean=tuple(configuration.mean),
        std=tuple(configuration.std),
    )
    classes = configuration.num_classes
    arguments: dict[str, Argument] = {"num_classes": classes} if classes else {}
    # Distilled networks have two classifiers, networks without classes none: there is no single layer to remove.
    classifier = configuration.classifier if classes and isinstance(configuration.classifier, str) else ""
    inferred = (InferredArgument("num_classes", f"{classifier}.weight"),) if classifier else ()
    return Architecture(
        name=f"{LIBRARY}:{name}",
        family=network.__name__,
        paper=f"{library_version(LIBRARY)}, {network.__module__}.{network.__qualname__}",
        build=with_signature(partial(_create_model, name), network),
        arguments=arguments,
        preprocessing=spec,
        classifier=classifier,
        inferred_arguments=inferred,
        pretrained=_pretrained_weights(configuration, spec, arguments),
        notes=tuple(_usage_notes(name, configuration)),
    )


def _resized_side(configuration: Any) -> int:
    """Return the shorter side to which timm resizes before it crops. With a `crop_pct` above 1 it is smaller than the
    crop, and timm pads the image with zeros.
    """
    resized: int = math.floor(max(configuration.input_size[1:]) / configuration.crop_pct)
    return resized


def _pretrained_config(name: str) -> Any:
    """Return timm's pretrained configuration. Raises InputError, with the existing tags, for an unknown tag."""
    from timm.models import get_pretrained_cfg, list_pretrained

    network, _, tag = name.partition(".")
    try:
        configuration = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tags = [model.partition(".")[2] for model in list_pretrained(f"{network}.*")]
        raise InputError(
            f"timm has no weights {tag!r} of {network}; it has {', '.join(tags) or 'none'}.",
            f"Give one of them, or timm:{network} for the default.",
        ) from error
    if configuration is None:
        raise InputError(
            f"timm has no preprocessing for {name}.",
            "Write a function that returns the network, and give module:function.",
        )
    return configuration


def _create_model(name: str, **arguments: Any) -> nn.Module:
    """Build the network in timm's exportable form: plain activations, and attention as matrix products."""
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about renamed models
        network: nn.Module = timm.create_model(name, exportable=True, **arguments)
    return network


def _pretrained_weights(
    configuration: Any, spec: Preprocessing, arguments: Mapping[str, Argument]
) -> Pretrained | None:
    if not (configuration.hf_hub_id or configuration.url or configuration.file):
        return None
    tag = f".{configuration.tag}" if configuration.tag else ""
    return Pretrained(f"{LIBRARY}:{configuration.architecture}{tag}", spec, arguments)


def _usage_notes(name: str, configuration: Any) -> list[str]:
    notes = []
    if configuration.interpolation != "bilinear":
        notes.append(
            f"timm measured {name} on images resized by {configuration.interpolation} interpolation; a bundle resizes "
            "them bilinearly, with antialiasing, which may change its accuracy by some tenths of a point."
        )
    if configuration.crop_mode != "center":
        notes.append(
            f"timm measured {name} on images cropped in mode {configuration.crop_mode!r}; a bundle resizes the shorter "
            "side and crops the center."
        )
    resized, size = _resized_side(configuration), max(configuration.input_size[1:])
    if resized < size:
        notes.append(
            f"timm measured {name} on images resized to {resized} pixels and padded to {size}; a bundle resizes them "
            f"to {size} pixels, without a border."
        )
    if not configuration.num_classes:
        notes.append(f"timm's {name} has no classes: it returns features. --num-classes adds a classifier.")
    if configuration.license not in PERMISSIVE_LICENCES:
        notes.append(f"timm's weights of {name} are under the licence {configuration.license}.")
    return notes


def load_released_weights(released: str, arguments: Mapping[str, Argument]) -> dict[str, Tensor]:
    """Return the released state dict, as timm adapts it to a network with these arguments.

    Downloads it from Hugging Face's hub, or reads its cache. Raises InputError where both fail.
    """
    name = released.partition(":")[2]
    try:
        state: dict[str, Tensor] = _create_model(name, pretrained=True, **arguments).state_dict()
    except Exception as error:  # the hub's client raises its own, its HTTP library's, and plain OSErrors
        configuration = _pretrained_config(name)
        repository = configuration.hf_hub_id and f"huggingface.co/{configuration.hf_hub_id}"
        raise InputError(
            f"the weights {name} could not be downloaded from {repository or configuration.url}: {root_cause(error)}.",
            "Without a network, download model.safetensors on another machine, and give --weights PATH.",
        ) from error
    return state


def released_classes(released: str) -> tuple[str, ...]:
    """Return ImageNet's class names where the weights were trained on it; timm has no other ordered class names."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    configuration = _pretrained_config(released)
    subset = infer_imagenet_subset(configuration.to_dict())
    if subset is None:
        return ()
    return tuple(ImageNetInfo(subset).label_descriptions())
