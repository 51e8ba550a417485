"""The network of an export request: what is exported, and the oracle that the exported graph is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deploykit.core.errors import UsageError
from deploykit.core.values import Backend, ExportedGraph, ExportRequest, ModelSpec, Runner, TensorSpec, WeightsRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Network(Protocol):
    """A network from any source. Everything is built lazily: an export that is in the cache needs no PyTorch."""

    @property
    def request(self) -> ExportRequest:
        """The export request."""
        ...

    @property
    def model(self) -> ModelSpec:
        """The exported function."""
        ...

    @property
    def weights(self) -> WeightsRecord:
        """The weights that the network holds."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the weights were trained on; empty where they are not known."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about how the network was imported that the user must know."""
        ...

    def write_graph(self, folder: Path) -> ExportedGraph:
        """Save the FP32 graph as ONNX in `folder`. Raises InputError where the network cannot be exported."""
        ...

    def oracle(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Runner:
        """Return the original network with this interface: the reference of every parity check."""
        ...


def open_network(request: ExportRequest, find_backend: Callable[[str], Backend]) -> Network:
    """Open the network that the request names. The oracle of an ONNX file is the backend that `find_backend` returns.

    Raises UsageError where an input is given twice.
    """
    names = [spec.name for spec in request.inputs]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"the input {duplicates[0]!r} is given more than once.", "Give --input once for each input.")
    if request.model.lower().endswith(".onnx"):
        from deploykit.export.networks.onnx_network import OnnxNetwork

        return OnnxNetwork(request, find_backend)
    from deploykit.export.networks.torch_network import TorchNetwork

    return TorchNetwork(request)
