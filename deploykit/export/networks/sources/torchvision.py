"""torchvision's classifiers, built by torchvision itself, with the preprocessing of their released weights."""

from __future__ import annotations

import inspect
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deploykit.core.errors import InputError
from deploykit.core.values import Architecture, Argument, InferredArgument, Preprocessing, Pretrained
from deploykit.export.networks.sources.outline import build_outline, last_layer, with_signature
from deploykit.export.networks.sources.registered import describe_unknown_name, library_version, registered_models

if TYPE_CHECKING:
    from torch import nn

LIBRARY: Final = "torchvision"

NO_CLASSIFIERS: Final = {
    "detection": "it detects objects, and computes its boxes in code that depends on the data",
    "segmentation": "it labels pixels, and returns a dictionary of maps",
    "video": "its input is a clip of several frames",
    "optical_flow": "its input is two images, and its output flow fields",
    "quantization": "its INT8 operators are PyTorch's own; export the network without quantized_ with --int8",
}
"""Folders of torchvision.models without classifiers, and why their networks cannot be exported."""

CLASSIFIERS_HINT: Final = (
    "Its classifiers can: python -c 'from torchvision import models; print(models.list_models(models))'"
)

SIZE_ARGUMENTS: Final = frozenset({"image_size", "input_size"})
"""Required arguments of some classes, for which the builders have a default."""

AUXILIARY_HEADS: Final = ("aux1", "aux2", "AuxLogits")
"""Auxiliary classifiers of GoogLeNet and Inception, which run in training only."""


def list_models() -> dict[str, str]:
    """Map the name of each classifier to its file in torchvision."""
    return {name: place for name, place in registered_models(LIBRARY, "export").items() if place not in NO_CLASSIFIERS}


def require_known_model(name: str) -> None:
    """Raise InputError, with the nearest names or the reason, for what is not a classifier of torchvision."""
    section = registered_models(LIBRARY, "export").get(name)
    if section in NO_CLASSIFIERS:
        raise InputError(f"torchvision:{name} cannot be exported: {NO_CLASSIFIERS[section]}.", CLASSIFIERS_HINT)
    if section is None:
        raise InputError(describe_unknown_name(LIBRARY, name, list_models()), CLASSIFIERS_HINT)


def network_identity(name: str) -> str:
    """Return the name and the version of torchvision."""
    return f"{LIBRARY}:{name} of {library_version(LIBRARY)}"


def find_architecture(name: str) -> Architecture:
    """Describe one of torchvision's classifiers, with the preprocessing of its default weights. Downloads nothing."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name).DEFAULT
    shape = build_outline(partial(_create_model, name))
    network = type(shape)
    build = with_signature(partial(_create_model, name), network, SIZE_ARGUMENTS)
    parameters = inspect.signature(build).parameters
    arguments: dict[str, Argument] = {"num_classes": len(weights.meta["categories"])}
    height, width = _height_width(weights.meta["min_size"])
    if "image_size" in parameters:
        arguments["image_size"] = height
    if "input_size" in parameters:
        arguments["input_size"] = (height, width)
    measured = weights.transforms()
    trained = _convert_preprocessing(measured, rescaled="transform_input" in parameters)
    classifier = last_layer(_without_auxiliary(shape))
    return Architecture(
        name=f"{LIBRARY}:{name}",
        family=network.__name__,
        paper=f"{library_version(LIBRARY)}, {network.__module__}.{network.__qualname__}",
        build=build,
        arguments=arguments,
        preprocessing=_convert_preprocessing(measured, rescaled=False),
        classifier=classifier,
        training_only=tuple(part for part in AUXILIARY_HEADS if hasattr(shape, part)),
        inferred_arguments=(InferredArgument("num_classes", f"{classifier}.weight"),),
        pretrained=Pretrained(f"{type(weights).__name__}.{weights.name}", trained, arguments),
        notes=_usage_notes(name, measured),
    )


def _create_model(name: str, **arguments: Any) -> nn.Module:
    from torchvision.models import get_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # GoogLeNet and Inception warn about a default
        network: nn.Module = get_model(name, **arguments)
    return network


def _without_auxiliary(shape: nn.Module) -> nn.Module:
    """Remove the auxiliary classifiers, which are built before the main one, or after it."""
    from torch import nn

    return nn.ModuleDict({name: child for name, child in shape.named_children() if name not in AUXILIARY_HEADS})


def _convert_preprocessing(measured: Any, rescaled: bool) -> Preprocessing:
    """Convert torchvision's ImageClassification, the preprocessing that the weights were measured with.

    `rescaled`: GoogLeNet's and Inception's released weights need pixels in [-1, 1]; torchvision rescales them inside
    the module (`transform_input`). That equals a mean and standard deviation of 0.5, which are used here instead.
    """
    height, width = _height_width(measured.crop_size)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if rescaled else (tuple(measured.mean), tuple(measured.std))
    return Preprocessing(resize=measured.resize_size[0], height=height, width=width, mean=mean, std=std)


def _height_width(size: Any) -> tuple[int, int]:
    return (size[0], size[-1])


def _usage_notes(name: str, measured: Any) -> tuple[str, ...]:
    from torchvision.transforms import InterpolationMode

    if measured.interpolation == InterpolationMode.BILINEAR:
        return ()
    return (
        f"torchvision measured {name} on images resized by {measured.interpolation.value} interpolation; a bundle "
        "resizes them bilinearly, with antialiasing, which may change its accuracy by some tenths of a point.",
    )


def released_classes(released: str) -> tuple[str, ...]:
    """Return the class names of the weights."""
    from torchvision.models import get_weight

    return tuple(get_weight(released).meta["categories"])
