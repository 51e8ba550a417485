"""Fits a state dict to a network: removes prefixes, infers constructor arguments, compares names, shapes and types.

Every name must match: a state dict that lacks a parameter, or has an additional one, belongs to another network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import torch

from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.core.values import Architecture, Argument
from deploykit.export.networks.checkpoint import State

PREFIXES: Final = ("module.", "backbone.", "model.", "net.", "_orig_mod.")
"""Prefixes that wrappers (DataParallel, Lightning, torch.compile …) add to every name."""

NAMES_SHOWN: Final = 6
"""Names listed per kind of mismatch; the others are counted."""


def strip_prefixes(state: State, own_prefix: str) -> State:
    """Remove the wrappers' prefixes that all parameters have, one inside the other.

    `own_prefix` is one that belongs to the network. Entries without the prefix, such as `n_averaged` of an averaged
    model, are not parameters of the network and are dropped.
    """
    for prefix in PREFIXES:
        own = own_prefix.startswith(prefix)  # the network itself has a submodule of that name
        if not own and all(name.startswith(prefix) for name, tensor in state.items() if tensor.is_floating_point()):
            inner = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
            return strip_prefixes(inner, own_prefix) if inner else state
    return state


def rename_legacy_keys(state: State) -> State:
    """Rename `denselayer1.norm.1` to `denselayer1.norm1`: DenseNet's released files date from when module names could
    contain dots.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in state.items()}


def infer_arguments(architecture: Architecture, state: State) -> dict[str, Argument]:
    """Return the constructor arguments that the shapes in the state dict determine."""
    return {
        inferred.argument: state[inferred.parameter].shape[inferred.axis]
        for inferred in architecture.inferred_arguments
        if inferred.parameter in state and state[inferred.parameter].ndim > inferred.axis
    }


def require_matching(expected: State, state: State, origin: str) -> None:
    """Raise InputError unless names, shapes and kinds of numbers match. BatchNorm's counters, which eval mode does not
    read, may be missing.
    """
    missing = [name for name in expected if name not in state and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    shapes, types = [], []
    for name in [name for name in expected if name in state]:
        wanted, actual = expected[name], state[name]
        if actual.shape != wanted.shape:
            shapes.append(f"{name} ({format_shape(actual.shape)}, not {format_shape(wanted.shape)})")
        if actual.is_floating_point() != wanted.is_floating_point():
            types.append(f"{name} ({actual.dtype})")
    mismatches = [
        *_list_names("missing", missing),
        *_list_names("unexpected", unexpected),
        *_list_names("of another shape", shapes),
        *_list_names("of another type", types),
    ]
    if mismatches:
        raise InputError(
            f"{origin} does not fit the network: {'; '.join(mismatches)}.",
            "Check the model's name and --model-arg, or save the state dict under the network's own names.",
        )


def require_finite(state: State, origin: str) -> None:
    """Raise InputError where a tensor has NaN or infinite values."""
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"{origin} has NaN or infinite values in {_list_names('tensors', broken)[0]}.",
            "Training has diverged; give an earlier checkpoint.",
        )


def _list_names(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"{kind}: {', '.join(names[:NAMES_SHOWN])}{more}"]


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Whether the parameter `name` belongs to one of the modules, given by dotted path."""
    return any(name.startswith(f"{module}.") for module in modules)
