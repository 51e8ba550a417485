"""A network in PyTorch. Architecture, weights and export module are built when they are first needed."""

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
from deploykit.export.networks.images import resolve_preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from deploykit.export.networks.weights import LoadedNetwork
    from deploykit.export.prepare import ExportModule, TensorExportModule


class TorchNetwork:
    """A network of the catalog, of torchvision, of timm, of the user's own code, or a torch.export program."""

    def __init__(self, request: ExportRequest) -> None:
        self.request = request
        if request.inputs and request.image is not None:
            raise UsageError(
                f"{request.model} cannot have both tensor inputs (--input) and image preprocessing.",
                "Give --input, or --input-size and the preprocessing.",
            )

    @cached_property
    def architecture(self) -> Architecture:
        """How the network is built, and its defaults."""
        return sources.find_architecture(self.request.model)

    @cached_property
    def loaded_network(self) -> LoadedNetwork:
        """The module with its weights."""
        from deploykit.export.networks.weights import load_network

        architecture = self.architecture
        if architecture.preprocessing is None:  # random weights: BatchNorm is calibrated on these inputs
            architecture = msgspec.structs.replace(architecture, inputs=self.tensor_inputs)
        arguments = sources.parse_arguments(architecture, self.request.arguments)
        return load_network(architecture, arguments, self.request.weights)

    @property
    def weights(self) -> WeightsRecord:
        """The weights that the module holds."""
        return self.loaded_network.record

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the network's source."""
        return self.architecture.notes

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """Its own preprocessing with the user's overrides; None for a network without image preprocessing."""
        request = self.request
        if request.inputs:
            return None
        own, declared = self.loaded_network.preprocessing, self.architecture.inputs
        return resolve_preprocessing(own, request.image, declared, request.model)

    @cached_property
    def tensor_inputs(self) -> tuple[InputSpec, ...]:
        """The inputs of a network without image preprocessing. Raises UsageError where they are not known."""
        image = self.request.image
        if self.request.inputs:
            return self.request.inputs
        if image is not None and image.height is not None and image.width is not None:
            return (InputSpec("input", (3, image.height, image.width), "float32"),)
        if self.architecture.inputs:
            return self.architecture.inputs
        raise UsageError(
            f"The inputs of {self.request.model} are not known.",
            "For images, give --input-size and the preprocessing (--mean, --std, --scale); otherwise give "
            "--input NAME=SHAPE:DTYPE, once for each argument of its forward().",
        )

    @cached_property
    def model(self) -> ModelSpec:
        """The exported function."""
        request, spec = self.request, self.preprocessing
        if spec is None and request.preprocess_in == "graph":
            raise UsageError(
                f"{request.model} has no preprocessing to put into the graph.",
                "Give --mean and --std, or leave --preprocess-in graph out.",
            )
        return ModelSpec(
            name=self.architecture.name,
            family=self.architecture.family,
            paper=self.architecture.paper,
            arguments=self.loaded_network.arguments,
            preprocessing=spec,
            head=request.head or ("logits" if spec is not None else "tensors"),
            preprocess_in=request.preprocess_in,
            inputs=("input",) if spec is not None else tuple(tensor.name for tensor in self.tensor_inputs),
        )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names of released weights; empty where the release has none."""
        released = self.architecture.pretrained
        return sources.released_classes(released.enum) if self.request.weights.kind == "imagenet" and released else ()

    @cached_property
    def export_module(self) -> ExportModule | TensorExportModule:
        """The network with head and preprocessing: the oracle of every comparison."""
        from deploykit.export.export import plan_module
        from deploykit.export.prepare import wrap_network

        network = self.loaded_network.module
        plan = plan_module(network, self.model, self._example_inputs(), self.request.options.batch)
        return wrap_network(network, self.model, self.architecture.classifier, plan)

    def _example_inputs(self) -> tuple[Tensor, ...]:
        from deploykit.export.export import example_inputs

        tensors = () if self.preprocessing is not None else self.tensor_inputs
        return example_inputs(self.model, self.request.options.batch, tensors)

    def release_memory(self) -> None:
        """Drop the module and what was derived from it; it is built again on the next use."""
        for name in ("export_module", "model", "preprocessing", "loaded_network"):
            self.__dict__.pop(name, None)

    def write_graph(self, folder: Path) -> ExportedGraph:
        """Trace the module with one of PyTorch's exporters, and save the graph in `folder`."""
        from deploykit.export.export import export_module

        training_only, options = self.architecture.training_only, self.request.options
        inputs = self._example_inputs()
        return export_module(self.export_module, self.model, options, self.weights, training_only, inputs, folder)

    def oracle(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Runner:
        """Return the module as a runner in eager PyTorch."""
        from deploykit.export.export import output_names
        from deploykit.export.networks.eager import EagerRunner

        return EagerRunner(self.export_module, inputs, outputs, output_names(self.export_module, self.model))
