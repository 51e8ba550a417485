"""Loads a state dict into a network, as torch's `load_state_dict` does, and lists what does not match.

Hooks of the network run before names are compared, so that a file that an earlier release of torch or of the network's
library wrote is translated. Every name must match: a state dict that lacks a parameter, or has an additional one,
belongs to another network.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.core.values import Architecture, Argument
from deploykit.export.networks.checkpoint import MAX_NAMES, State, format_names

WRAPPERS: Final = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that torch.compile, FSDP and activation checkpointing insert, anywhere."""

NOT_WEIGHTS: Final = re.compile(
    r"(?:criterion|criteria|loss|losses|loss_\w+|\w+_loss|metrics?|\w+_metrics?|(?:train|val|valid|test)_\w+)\..*"
    r"|n_averaged|(?:.*\.)?total_(?:ops|params)"
)
"""Entries that only training reads: losses and metrics next to the network, the counter of an averaged model, and
counters that the profiler thop leaves in every module."""

COUNTER: Final = "num_batches_tracked"
"""BatchNorm's counter, which eval mode does not read."""


class Mismatches(NamedTuple):
    """What does not match between a network and a state dict, as names and, for the last two, differences."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str]
    types: list[str]
    errors: list[str]
    """What the network's own loading code says."""

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.missing, *self.unexpected, *self.shapes, *self.types, *self.errors]

    def describe(self, left_out: list[str]) -> str:
        """List the names by kind, no more than `MAX_NAMES` in total. `left_out` are those next to the state dict."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.shapes,
            "of another type": self.types,
            "refused by the network": self.errors,
            "next to it": left_out,
        }
        kinds = {kind: names for kind, names in kinds.items() if names}
        limit = min(6, MAX_NAMES // max(len(kinds), 1))
        return "; ".join(f"{kind}: {format_names(names, limit)}" for kind, names in kinds.items())


def normalize_names(state: Mapping[str, Tensor], own: Iterable[str]) -> State:
    """Remove the parts that wrappers insert into names, unless the network has them itself, and rename
    `denselayer1.norm.1` to `denselayer1.norm1`: DenseNet's released files date from when module names could contain
    dots.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    wrapped = any(map(WRAPPERS.search, own))
    return {old.sub(r"\1\2", name if wrapped else WRAPPERS.sub("", name)): state[name] for name in state}


def is_training_entry(name: str) -> bool:
    """Whether only training reads an entry of that name, unless the network has one of that name itself."""
    return NOT_WEIGHTS.fullmatch(name) is not None


def infer_arguments(architecture: Architecture, state: State) -> dict[str, Argument]:
    """Return the constructor arguments that the shapes in the state dict determine."""
    return {
        inferred.argument: state[inferred.parameter].shape[inferred.axis]
        for inferred in architecture.inferred_arguments
        if inferred.parameter in state and state[inferred.parameter].ndim > inferred.axis
    }


def load_state(
    module: nn.Module, state: State, metadata: Mapping[str, Any], training_only: tuple[str, ...]
) -> Mismatches:
    """Load the state dict, in float32, as far as it matches, and return what does not.

    Entries of training-only submodules may be missing, and are loaded where they fit: no exported value depends on
    them. So may BatchNorm's counters, and a parameter that is tied to another one.
    """
    own: State = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    state = {
        name: tensor
        for name, tensor in state.items()
        if not is_inside(name, training_only) or (name in own and own[name].shape == tensor.shape)
    }
    shapes = [
        f"{name} ({format_shape(state[name].shape)}, not {format_shape(own[name].shape)})"
        for name in own
        if name in state and not _is_loadable_shape(state[name], own[name])
    ]
    types = [
        f"{name} ({state[name].dtype})"
        for name in own
        if name in state and not _is_loadable_type(state[name], own, name)
    ]
    if shapes or types:
        return Mismatches(*_compare_names(module, own, state, training_only), shapes, types, [])
    converted: OrderedDict[str, Tensor] = OrderedDict(
        (name, tensor.float() if tensor.is_floating_point() else tensor) for name, tensor in state.items()
    )
    converted._metadata = metadata  # type: ignore[attr-defined]  # where torch keeps it
    try:
        result = module.load_state_dict(converted, strict=False)
    except Exception as error:  # of the network's own hooks, or torch's for names that they translated
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        return Mismatches([], [], [], [], lines or [first_line(error)])
    missing, unexpected = ([], []) if result is None else (result.missing_keys, result.unexpected_keys)
    missing = _drop_optional(module, own, state, missing, training_only)
    return Mismatches(missing, list(unexpected), [], [], [])


def _compare_names(
    module: nn.Module, own: State, state: State, training_only: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Missing and unexpected names, without the network's hooks."""
    missing = _drop_optional(module, own, state, [name for name in own if name not in state], training_only)
    return missing, [name for name in state if name not in own]


def _drop_optional(
    module: nn.Module, own: State, state: State, missing: list[str], training_only: tuple[str, ...]
) -> list[str]:
    """Names that are missing and needed."""
    loaded = {_identify_memory(own[name]) for name in own if name in state}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return [
        name
        for name in missing
        if not (
            is_inside(name, training_only)
            or name.rpartition(".")[2] == COUNTER
            or (name in parameters and _identify_memory(own[name]) in loaded)
        )
    ]


def _identify_memory(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Equal for parameters that are tied: the same numbers in memory, read in the same order."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _is_loadable_shape(tensor: Tensor, own: Tensor) -> bool:
    """Whether torch loads it; a scalar may have one axis, as before torch 0.4."""
    return tensor.shape == own.shape or (own.ndim == 0 and tensor.shape == (1,))


def _is_loadable_type(tensor: Tensor, own: State, name: str) -> bool:
    """Whether the numbers stay what they are. Integers may be stored as floats: averaging and `.half()` do that."""
    if own[name].is_floating_point():
        return tensor.is_floating_point()
    whole = name.rpartition(".")[2] == COUNTER or not tensor.is_floating_point()
    return whole or bool((tensor == tensor.round()).all())


def require_finite(state: State, origin: str) -> None:
    """Raise InputError where a tensor has NaN or infinite values."""
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"{origin} has NaN or infinite values in tensors: {format_names(broken, 6)}.",
            "Training has diverged; give an earlier checkpoint.",
        )


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Whether the parameter `name` belongs to one of the modules, given by dotted path."""
    return any(name.startswith(f"{module}.") for module in modules)
