"""The network of a request: what is exported, and what every export of it is judged by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deploykit.core.errors import UsageError
from deploykit.core.values import Backend, ExportedGraph, ExportRequest, ModelSpec, Runner, TensorSpec, WeightsRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Network(Protocol):
    """A network, wherever it comes from. Nothing of it is built before it is asked for: what comes from the cache needs
    no PyTorch at all.
    """

    @property
    def request(self) -> ExportRequest:
        """What was asked for."""
        ...

    @property
    def model(self) -> ModelSpec:
        """The function that is exported."""
        ...

    @property
    def weights(self) -> WeightsRecord:
        """The weights that it really holds."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that its weights were trained to tell apart; none where nobody says."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a user must know of the way in which it was taken in."""
        ...

    def write(self, folder: Path) -> ExportedGraph:
        """Its graph in FP32, as ONNX, into `folder`. InputError where it cannot be had."""
        ...

    def oracle(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Runner:
        """The network as it was brought, with this interface: what parity is judged beside."""
        ...


def open_network(request: ExportRequest, find_backend: Callable[[str], Backend]) -> Network:
    """The network that the request names; of an ONNX file, the runtime that `find_backend` gives is the oracle.

    UsageError where an input is given twice.
    """
    names = [each.name for each in request.inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"the input {twice[0]!r} is said more than once.", "Give --input once for each input.")
    if request.model.lower().endswith(".onnx"):
        from deploykit.export.networks.onnx_network import OnnxNetwork

        return OnnxNetwork(request, find_backend)
    from deploykit.export.networks.torch_network import TorchNetwork

    return TorchNetwork(request)
