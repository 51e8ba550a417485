"""The network of a request: architecture, weights and served module, built when they are first needed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from deploykit.export import catalog
from deploykit.values import (
    Architecture,
    ExportRequest,
    ImageOverrides,
    ModelSpec,
    Preprocessing,
    Runner,
    TensorSpec,
)

if TYPE_CHECKING:
    from deploykit.export.prepare import Served
    from deploykit.export.weights import Loaded


class Network:
    """Lazy, since what comes from the cache needs no PyTorch at all."""

    def __init__(self, request: ExportRequest) -> None:
        self.request = request

    @cached_property
    def architecture(self) -> Architecture:
        """Its entry in the catalog."""
        return catalog.find(self.request.model)

    @cached_property
    def loaded(self) -> Loaded:
        """The module with its weights."""
        from deploykit.export.weights import load

        arguments = catalog.arguments(self.architecture, self.request.arguments)
        return load(self.architecture, arguments, self.request.weights)

    @cached_property
    def model(self) -> ModelSpec:
        """The function that will be exported."""
        return ModelSpec(
            name=self.architecture.name,
            family=self.architecture.family,
            paper=self.architecture.paper,
            arguments=self.loaded.arguments,
            preprocessing=overridden(self.loaded.preprocessing, self.request.image),
            head=self.request.head,
            preprocess=self.request.preprocess,
        )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """What the weights were trained to tell apart, where torchvision released them with the names."""
        released = self.architecture.pretrained
        if self.request.weights.kind != "imagenet" or released is None:
            return ()
        from torchvision.models import get_weight

        return tuple(get_weight(released.enum).meta["categories"])

    @cached_property
    def served(self) -> Served:
        """The module behind its head and preprocessing: the oracle of every comparison."""
        from deploykit.export.prepare import served

        return served(self.loaded.module, self.model, self.architecture.classifier)

    def eager(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Runner:
        """The oracle as a Runner."""
        from deploykit.backends.eager import EagerRunner

        return EagerRunner(self.served, inputs, outputs)

    def forget(self) -> None:
        """Give the memory back; what is asked for again is built again."""
        for name in ("served", "model", "loaded"):
            self.__dict__.pop(name, None)


def overridden(spec: Preprocessing, image: ImageOverrides | None) -> Preprocessing:
    """The network's own preprocessing with what the user said instead.

    A new input size takes the whole image: its shorter side is resized to the larger of the two.
    """
    if image is None:
        return spec
    given = {name: value for name, value in msgspec.structs.asdict(image).items() if value is not None}
    if image.height is not None and image.width is not None:
        given["resize"] = max(image.height, image.width)
    return msgspec.structs.replace(spec, **given)
