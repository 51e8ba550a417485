"""timm's classifiers, as NAME or NAME.TAG, with the preprocessing that their pretrained configuration names."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deploykit.core.errors import InputError
from deploykit.core.values import Architecture, Argument, InferredArgument, Preprocessing, Pretrained
from deploykit.export.networks.sources.outline import outline, signed
from deploykit.export.networks.sources.registered import registered, release, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

LIBRARY: Final = "timm"

PERMISSIVE: Final = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0", None, "")
"""Licences of weights that need no word."""


def names() -> dict[str, str]:
    """Every architecture that is registered."""
    return registered(LIBRARY, "[timm]")


def known(name: str) -> None:
    """InputError for what timm does not have, with the nearest names. Tags are looked at by `find`."""
    network = name.partition(".")[0]
    if network not in names():
        raise InputError(
            unknown_name(LIBRARY, network, names()), "timm.list_models('*WORD*') finds others; a tag follows a dot."
        )


def identity(name: str) -> str:
    """Its name and the version that builds it."""
    return f"{LIBRARY}:{name} of {release(LIBRARY)}"


def find(name: str) -> Architecture:
    """One of timm's networks; nothing is downloaded."""
    configuration = _configuration(name)
    channels, height, width = configuration.input_size
    if channels != 3:
        raise InputError(f"timm:{name} takes {channels} channels, and images have 3.", "Choose another network.")
    network = type(outline(partial(_built, name)))
    spec = Preprocessing(
        resize=math.floor(max(height, width) / configuration.crop_pct),
        height=height,
        width=width,
        mean=tuple(configuration.mean),
        std=tuple(configuration.std),
    )
    classes = configuration.num_classes
    arguments: dict[str, Argument] = {"num_classes": classes} if classes else {}
    # Distilled networks have two classifiers, and those without classes none: there is no one layer to take away.
    classifier = configuration.classifier if classes and isinstance(configuration.classifier, str) else ""
    inferred = (InferredArgument("num_classes", f"{classifier}.weight"),) if classifier else ()
    return Architecture(
        name=f"{LIBRARY}:{name}",
        family=network.__name__,
        paper=f"{release(LIBRARY)}, {network.__module__}.{network.__qualname__}",
        build=signed(partial(_built, name), network),
        arguments=arguments,
        preprocessing=spec,
        classifier=classifier,
        inferred=inferred,
        pretrained=_pretrained(configuration, spec, arguments),
        notes=tuple(_notes(name, configuration)),
    )


def _configuration(name: str) -> Any:
    """What timm knows of the pretrained weights; InputError, with the tags there are, for an unknown one."""
    from timm.models import get_pretrained_cfg, list_pretrained

    network, _, tag = name.partition(".")
    try:
        found = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tags = [each.partition(".")[2] for each in list_pretrained(f"{network}.*")]
        raise InputError(
            f"timm has no weights {tag!r} of {network}; it has {', '.join(tags) or 'none'}.", f"Or say timm:{network}."
        ) from error
    if found is None:
        raise InputError(f"timm says nothing of how images reach {name}.", "Give it as a callable of your own.")
    return found


def _built(name: str, **arguments: Any) -> nn.Module:
    """In the form that exporters read: plain activations, and attention of plain products."""
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that have moved
        built: nn.Module = timm.create_model(name, exportable=True, **arguments)
    return built


def _pretrained(configuration: Any, spec: Preprocessing, arguments: Mapping[str, Argument]) -> Pretrained | None:
    if not (configuration.hf_hub_id or configuration.url or configuration.file):
        return None
    tag = f".{configuration.tag}" if configuration.tag else ""
    return Pretrained(f"{LIBRARY}:{configuration.architecture}{tag}", spec, arguments)


def _notes(name: str, configuration: Any) -> list[str]:
    notes = []
    if configuration.interpolation != "bilinear":
        notes.append(
            f"timm measured {name} on images resized by {configuration.interpolation} interpolation; a bundle resizes "
            "them bilinearly, with antialiasing, which may move its accuracy by some tenths of a point."
        )
    if configuration.crop_mode != "center":
        notes.append(
            f"timm measured {name} on images brought to size by {configuration.crop_mode!r}; a bundle resizes the "
            "shorter side and cuts out the centre."
        )
    if not configuration.num_classes:
        notes.append(f"timm's {name} has no classes: it answers with features. --num-classes gives it a classifier.")
    if configuration.license not in PERMISSIVE:
        notes.append(f"timm's weights of {name} come under the licence {configuration.license}.")
    return notes


def weights(released: str, arguments: Mapping[str, Argument]) -> dict[str, Tensor]:
    """The released state dict, as timm fits it to a network with those arguments.

    From Hugging Face's hub, or its cache. InputError where neither has it.
    """
    name = released.partition(":")[2]
    try:
        state: dict[str, Tensor] = _built(name, pretrained=True, **arguments).state_dict()
    except Exception as error:  # the hub's client raises its own, its HTTP library's, and plain OSErrors
        place = _configuration(name)
        raise InputError(
            f"the weights {name} could not be fetched from "
            f"{(place.hf_hub_id and 'huggingface.co/' + place.hf_hub_id) or place.url}: {_reason(error)}.",
            "Without a network, download model.safetensors there elsewhere, and give --weights PATH.",
        ) from error
    return state


def _reason(error: BaseException) -> str:
    """The first line of what set it off."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def classes(released: str) -> tuple[str, ...]:
    """What those weights tell apart, where it is ImageNet's thousand; timm names no other classes by order."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    configuration = _configuration(released)
    subset = infer_imagenet_subset(configuration.to_dict())
    if subset is None:
        return ()
    return tuple(ImageNetInfo(subset).label_descriptions())
