"""Eager PyTorch as a Runner: the oracle that all other runners are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deploykit.core.values import Arrays, TensorSpec
from deploykit.export.autocast import ignore_autocast

if TYPE_CHECKING:
    from numpy.typing import NDArray


class EagerRunner:
    """A module in eval mode, FP32, on the CPU, with the interface of the graph that was exported from it."""

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        names: tuple[str, ...] = (),
    ) -> None:
        """`names` are those of all outputs of the module, in order; empty: `outputs` are all."""
        self._module = module.eval()
        self._names = names or tuple(spec.name for spec in outputs)
        self.inputs = inputs
        self.outputs = outputs

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Return outputs by name. The arrays are copied: PyTorch needs writable memory."""
        inputs = [torch.from_numpy(np.array(arrays[spec.name])) for spec in self.inputs]
        with torch.inference_mode(), ignore_autocast():
            outputs = self._module(*inputs)
        tensors = dict(zip(self._names, (outputs,) if isinstance(outputs, torch.Tensor) else outputs, strict=True))
        return {spec.name: tensors[spec.name].numpy() for spec in self.outputs}
