"""Eager PyTorch as a Runner: the oracle that all other runners are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deploykit.core.values import Arrays, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class EagerRunner:
    """A module in eval mode, FP32, on the CPU, with the interface of the graph that was exported from it."""

    def __init__(self, module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._module = module.eval()
        self.inputs = inputs
        self.outputs = outputs

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Return outputs by name. The arrays are copied: PyTorch needs writable memory."""
        inputs = [torch.from_numpy(np.array(arrays[spec.name])) for spec in self.inputs]
        with torch.inference_mode():
            outputs = self._module(*inputs)
        tensors = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return {spec.name: tensor.numpy() for spec, tensor in zip(self.outputs, tensors, strict=True)}
