"""torchvision's classifiers, as torchvision itself builds them, with the preprocessing of their released weights."""

from __future__ import annotations

import inspect
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deploykit.core.errors import InputError
from deploykit.core.values import Architecture, Argument, InferredArgument, Preprocessing, Pretrained
from deploykit.export.networks.sources.outline import last_layer, outline, signed
from deploykit.export.networks.sources.registered import registered, release, unknown_name

if TYPE_CHECKING:
    from torch import nn

LIBRARY: Final = "torchvision"

NO_CLASSIFIERS: Final = {
    "detection": "it finds objects, and its boxes come out of code that depends on the data",
    "segmentation": "it labels pixels, and answers with a dictionary of maps",
    "video": "it takes clips of several frames",
    "optical_flow": "it takes two images, and answers with flow fields",
    "quantization": "its INT8 operators are PyTorch's own; the network without quantized_ can be exported in INT8",
}
"""Folders of torchvision.models besides the classifiers, and why theirs do not go in."""

ONLY: Final = "Its classifiers can: python -c 'from torchvision import models; print(models.list_models(models))'"

SIZES: Final = frozenset({"image_size", "input_size"})
"""Arguments that some classes demand and their builders have a default for."""

AUXILIARY: Final = ("aux1", "aux2", "AuxLogits")
"""What GoogLeNet and Inception train with and never run in eval mode."""


def names() -> dict[str, str]:
    """The classifiers."""
    return {name: place for name, place in registered(LIBRARY, "").items() if place not in NO_CLASSIFIERS}


def known(name: str) -> None:
    """InputError for what is no classifier of torchvision, with the nearest names or the reason."""
    place = registered(LIBRARY, "").get(name)
    if place in NO_CLASSIFIERS:
        raise InputError(f"torchvision:{name} cannot be exported: {NO_CLASSIFIERS[place]}.", ONLY)
    if place is None:
        raise InputError(unknown_name(LIBRARY, name, names()), ONLY)


def identity(name: str) -> str:
    """Its name and the version that builds it."""
    return f"{LIBRARY}:{name} of {release(LIBRARY)}"


def find(name: str) -> Architecture:
    """One of torchvision's classifiers. Its preprocessing is that of its default weights; nothing is downloaded."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name).DEFAULT
    shape = outline(partial(_built, name))
    network = type(shape)
    build = signed(partial(_built, name), network, SIZES)
    parameters = inspect.signature(build).parameters
    arguments: dict[str, Argument] = {"num_classes": len(weights.meta["categories"])}
    height, width = _pair(weights.meta["min_size"])
    if "image_size" in parameters:
        arguments["image_size"] = height
    if "input_size" in parameters:
        arguments["input_size"] = (height, width)
    measured = weights.transforms()
    trained = _preprocessing(measured, rescaled="transform_input" in parameters)
    classifier = last_layer(_without_auxiliary(shape))
    return Architecture(
        name=f"{LIBRARY}:{name}",
        family=network.__name__,
        paper=f"{release(LIBRARY)}, {network.__module__}.{network.__qualname__}",
        build=build,
        arguments=arguments,
        preprocessing=_preprocessing(measured, rescaled=False),
        classifier=classifier,
        training_only=tuple(part for part in AUXILIARY if hasattr(shape, part)),
        inferred=(InferredArgument("num_classes", f"{classifier}.weight"),),
        pretrained=Pretrained(f"{type(weights).__name__}.{weights.name}", trained, arguments),
        notes=_notes(name, measured),
    )


def _built(name: str, **arguments: Any) -> nn.Module:
    from torchvision.models import get_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # GoogLeNet's and Inception's, of a default that will change
        built: nn.Module = get_model(name, **arguments)
    return built


def _without_auxiliary(shape: nn.Module) -> nn.Module:
    """GoogLeNet and Inception build their auxiliary classifiers before the one that answers, or behind it."""
    from torch import nn

    return nn.ModuleDict({name: child for name, child in shape.named_children() if name not in AUXILIARY})


def _preprocessing(measured: Any, rescaled: bool) -> Preprocessing:
    """What the weights were measured with: `measured` is torchvision's ImageClassification.

    `rescaled`: GoogLeNet's and Inception's released weights want pixels in [-1, 1], to which torchvision brings them
    inside the module (`transform_input`). That comes to exactly a mean and deviation of 0.5, and stands here instead.
    """
    height, width = _pair(measured.crop_size)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if rescaled else (tuple(measured.mean), tuple(measured.std))
    return Preprocessing(resize=measured.resize_size[0], height=height, width=width, mean=mean, std=std)


def _pair(size: Any) -> tuple[int, int]:
    return (size[0], size[-1])


def _notes(name: str, measured: Any) -> tuple[str, ...]:
    from torchvision.transforms import InterpolationMode

    if measured.interpolation == InterpolationMode.BILINEAR:
        return ()
    return (
        f"torchvision measured {name} on images resized by {measured.interpolation.value} interpolation; a bundle "
        "resizes them bilinearly, with antialiasing, which may move its accuracy by some tenths of a point.",
    )


def classes(released: str) -> tuple[str, ...]:
    """What those weights tell apart."""
    from torchvision.models import get_weight

    return tuple(get_weight(released).meta["categories"])
