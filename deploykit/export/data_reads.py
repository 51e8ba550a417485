"""Finds where a network reads the values of tensors that depend on its input, while it runs in eager PyTorch.

`if y.max() > 1:`, `y.item()`, `y.numpy()`: what is computed from such a number, or chosen by it, becomes a constant in
a graph that is recorded from one run. TorchScript's exporter records it so; torch.export refuses it or keeps it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deploykit.export.autocast import ignore_autocast
from deploykit.export.eager_run import unchanged_buffers
from deploykit.export.user_code import current_place, follow_layers

COPIES: Final = frozenset({torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__})
"""Methods that read a tensor without an operation of PyTorch."""


class DataReads(NamedTuple):
    """Lines of code, or else layers, in the order of the run."""

    values: tuple[str, ...]
    """Where a value computed from the input is read into Python."""
    sizes: tuple[str, ...]
    """Where a tensor gets a size that depends on such values."""


def find_data_reads(network: nn.Module, inputs: tuple[Tensor, ...]) -> DataReads:
    """Run the network, and find where it reads values computed from `inputs`."""
    with torch.no_grad(), ignore_autocast(), unchanged_buffers(network), follow_layers(network) as layers:
        derived = _DerivedTensors(layers)
        derived.add(inputs)
        with _OperationReads(derived), _MethodReads(derived):
            network(*inputs)
    return DataReads(tuple(dict.fromkeys(derived.reads)), tuple(dict.fromkeys(derived.sizes)))


class _DerivedTensors:
    """The tensors that were computed from the input, by their memory, and where such a tensor was read."""

    def __init__(self, layers: list[str]) -> None:
        self.reads: list[str] = []
        self.sizes: list[str] = []
        self._layers = layers
        self._storages: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no other tensor gets their memory

    def add(self, values: object) -> None:
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = storage

    def contain(self, values: object) -> bool:
        return any(tensor.untyped_storage()._cdata in self._storages for tensor in _tensors(values))

    def place(self) -> str:
        return current_place(self._layers) or "in its forward()"


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class _OperationReads(TorchDispatchMode):
    """Marks what is computed from derived tensors; `.item()`, `bool()`, `torch.equal` and their like are reads."""

    def __init__(self, derived: _DerivedTensors) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._derived = derived

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._derived.contain((args, kwargs)):
            if torch.Tag.data_dependent_output in func.tags and not isinstance(result, Tensor):
                self._derived.reads.append(self._derived.place())
            if torch.Tag.dynamic_output_shape in func.tags or _is_masked(func, args):
                self._derived.sizes.append(self._derived.place())
            written = [
                value
                for value, argument in zip(args, func._schema.arguments, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write
            ]
            self._derived.add((result, written))
        return result


def _is_masked(func: Any, args: Any) -> bool:
    """Whether an operation takes the elements that a mask selects: `y[y > 0]`."""
    masks = [one for one in tree_leaves(args[1:2]) if isinstance(one, Tensor) and one.dtype == torch.bool]
    return bool(masks) and str(func).startswith("aten.index.")


class _MethodReads(TorchFunctionMode):
    """`.numpy()` and `.tolist()` of derived tensors."""

    def __init__(self, derived: _DerivedTensors) -> None:
        super().__init__()
        self._derived = derived

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in COPIES and self._derived.contain(args):
            self._derived.reads.append(self._derived.place())
        return func(*args, **(kwargs or {}))
