"""A network in PyTorch: architecture, weights and served module, built when they are first needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploykit.core.errors import UsageError
from deploykit.core.values import (
    Architecture,
    ExportedGraph,
    ExportRequest,
    InputSpec,
    ModelSpec,
    Preprocessing,
    Runner,
    TensorSpec,
    WeightsRecord,
)
from deploykit.export.networks import sources
from deploykit.export.networks.images import told

if TYPE_CHECKING:
    from deploykit.export.networks.weights import Loaded
    from deploykit.export.prepare import Served, ServedTensors


class TorchNetwork:
    """From the catalog, from torchvision or timm, from the user's own code, or from a torch.export program."""

    def __init__(self, request: ExportRequest) -> None:
        self.request = request
        if request.inputs and request.image is not None:
            raise UsageError(
                f"--input says that {request.model} takes tensors; --input-size or preprocessing, images.",
                "Give one or the other.",
            )

    @cached_property
    def architecture(self) -> Architecture:
        """How it is built."""
        return sources.find(self.request.model)

    @cached_property
    def loaded(self) -> Loaded:
        """The module with its weights."""
        from deploykit.export.networks.weights import load

        known = self.architecture
        if known.preprocessing is None:  # of images too: BatchNorm is settled on what the network takes
            known = msgspec.structs.replace(known, inputs=self.taken)
        return load(known, sources.arguments(known, self.request.arguments), self.request.weights)

    @property
    def weights(self) -> WeightsRecord:
        """The weights that the module holds."""
        return self.loaded.record

    @property
    def notes(self) -> tuple[str, ...]:
        """What its source says of it."""
        return self.architecture.notes

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """From an image to its input: its own, with what the user said instead. None: it takes tensors."""
        asked = self.request
        if asked.inputs:
            return None
        return told(self.loaded.preprocessing, asked.image, self.architecture.inputs, asked.model)

    @cached_property
    def taken(self) -> tuple[InputSpec, ...]:
        """The inputs, where they are no images. UsageError where nobody says what they are."""
        image = self.request.image
        if self.request.inputs:
            return self.request.inputs
        if image is not None and image.height is not None and image.width is not None:
            return (InputSpec("input", (3, image.height, image.width), "float32"),)
        if self.architecture.inputs:
            return self.architecture.inputs
        raise UsageError(
            f"{self.request.model} does not say what it takes.",
            "For images give --input-size and the preprocessing (--mean, --std, --scale); for anything else "
            "--input NAME=SHAPE:DTYPE, once for each argument of its forward().",
        )

    @cached_property
    def model(self) -> ModelSpec:
        """The function that will be exported."""
        asked, spec = self.request, self.preprocessing
        if spec is None and asked.preprocess == "graph":
            raise UsageError(
                f"{asked.model} has no preprocessing that could go into the graph.",
                "Give --mean and --std, or leave --preprocess graph out.",
            )
        return ModelSpec(
            name=self.architecture.name,
            family=self.architecture.family,
            paper=self.architecture.paper,
            arguments=self.loaded.arguments,
            preprocessing=spec,
            head=asked.head or ("logits" if spec is not None else "tensors"),
            preprocess=asked.preprocess,
            inputs=("input",) if spec is not None else tuple(each.name for each in self.taken),
        )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """What the weights were trained to tell apart, where they were released with the names."""
        released = self.architecture.pretrained
        return sources.classes(released.enum) if self.request.weights.kind == "imagenet" and released else ()

    @cached_property
    def served(self) -> Served | ServedTensors:
        """The module behind its head and preprocessing: the oracle of every comparison."""
        from deploykit.export.prepare import served

        return served(self.loaded.module, self.model, self.architecture.classifier)

    def forget(self) -> None:
        """Give the memory back; what is asked for again is built again."""
        for name in ("served", "model", "preprocessing", "loaded"):
            self.__dict__.pop(name, None)

    def write(self, folder: Path) -> ExportedGraph:
        """The module, traced by one of PyTorch's exporters."""
        from deploykit.export.export import examples, export

        stripped, options = self.architecture.training_only, self.request.options
        inputs = examples(self.model, options.batch, () if self.preprocessing is not None else self.taken)
        return export(self.served, self.model, options, self.weights, stripped, inputs, folder)

    def oracle(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Runner:
        """The module in eager PyTorch."""
        from deploykit.export.networks.eager import EagerRunner

        return EagerRunner(self.served, inputs, outputs)
