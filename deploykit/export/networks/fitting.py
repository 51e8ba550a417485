"""Finds the state dict in a checkpoint that fits a network.

A state dict may stand in dictionaries of any depth, and under a prefix that all its names have (`module.`, `model.`,
`ema.module.`). Where one fits, it is loaded and named; where several do, such as trained weights and their average, the
user chooses between them with `--weights FILE:KEY`.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from deploykit.core.errors import InputError
from deploykit.core.values import Architecture, Argument
from deploykit.export.networks import state_dict
from deploykit.export.networks.checkpoint import State, StateDict, find_state_dicts, format_names
from deploykit.export.networks.mismatch_remedy import suggest_remedy

MAX_TRIALS: Final = 12
"""State dicts of one checkpoint that are tried: those that share most names with the network."""


class Candidate(NamedTuple):
    """A state dict, under the network's names as far as it has them."""

    name: str
    """Keys and prefix that lead to it, joined by dots; empty: it is the whole file."""
    state: State
    metadata: Mapping[str, Any]
    left_out: list[str]
    """Names of the tensors next to it."""
    overlap: int
    """Number of names that it shares with the network."""


class FittedNetwork(NamedTuple):
    """A network with the weights of a checkpoint."""

    module: nn.Module
    arguments: Mapping[str, Argument]
    origin: str
    """Name of the file, and of the state dict in it."""
    notes: tuple[str, ...]


Build = Callable[[Mapping[str, Argument]], nn.Module]
"""Builds the network with arguments inferred from the shapes of a state dict."""


def load_fitting(
    content: object, path: Path, key: str | None, own: Iterable[str], architecture: Architecture, build: Build
) -> FittedNetwork:
    """Load the state dict of the checkpoint that fits the network. `own` are the names of the network's parameters.

    Raises InputError where none fits, or where several do and `key` chooses none of them.
    """
    candidates = list_candidates(find_state_dicts(content, path), list(own))
    if key is not None:
        candidates = _select_by_key(candidates, key, path)
    trials = [(candidate, _Trial(candidate, architecture, build, path)) for candidate in candidates]
    fitting = [(candidate, trial) for candidate, trial in trials if trial.error is None]
    if not fitting:
        best = trials[0][1].error
        assert best is not None
        raise best
    if len(fitting) > 1 and not _are_equal([candidate.state for candidate, _ in fitting]):
        raise _ambiguity_error(path, [candidate.name for candidate, _ in fitting])
    candidate, trial = fitting[0]
    state_dict.require_finite(_used_state(candidate.state, architecture), path.name)
    module = trial.load()
    origin = f"{path.name}:{candidate.name}" if candidate.name else path.name
    return FittedNetwork(module, trial.inferred, origin, tuple(_describe_choice(candidate, path)))


def list_candidates(state_dicts: list[StateDict], own: list[str]) -> list[Candidate]:
    """List the state dicts under every prefix that gives them names of the network, those with most of them first."""
    candidates, own_names = [], set(own)
    for found in state_dicts:
        tensors = state_dict.normalize_names(found.tensors, own)
        counts = Counter(prefix for name in tensors for prefix in _prefixes_before(name, own_names))
        counts.setdefault("", 0)
        for prefix, count in counts.items():
            inside = {name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
            inside = {
                name: inner
                for name, inner in inside.items()
                if inner in own_names or not state_dict.is_training_entry(inner)
            }
            state = {inner: tensors[name] for name, inner in inside.items()}
            left_out = [name for name in tensors if name not in inside]
            metadata = {
                name.removeprefix(prefix): value
                for name, value in found.metadata.items()
                if f"{name}.".startswith(prefix)
            }
            name = ".".join(part for part in (found.name, prefix.rstrip(".")) if part)
            candidates.append(Candidate(name, state, metadata, left_out, count))
    best = max(candidate.overlap for candidate in candidates)
    # The whole file may have no name of the network before its hooks have run.
    close = [candidate for candidate in candidates if 2 * candidate.overlap >= best]
    return sorted(close, key=lambda candidate: -candidate.overlap)[:MAX_TRIALS]


def _prefixes_before(name: str, own: set[str]) -> Iterable[str]:
    """Beginnings of `name`, up to a dot, after which a name of the network follows."""
    starts = [0, *(at + 1 for at, character in enumerate(name) if character == ".")]
    return [name[:start] for start in starts if name[start:] in own]


class _Trial:
    """An attempt to load a candidate into a network of its sizes."""

    def __init__(self, candidate: Candidate, architecture: Architecture, build: Build, path: Path) -> None:
        self._candidate, self._architecture, self._build, self._path = candidate, architecture, build, path
        self.inferred: Mapping[str, Argument] = state_dict.infer_arguments(architecture, candidate.state)
        self.error: InputError | None = None
        try:
            self.load()
        except InputError as error:
            self.error = error

    def load(self) -> nn.Module:
        """Build the network and load the candidate. Raises InputError where it does not fit."""
        module = self._build(self.inferred)
        candidate = self._candidate
        mismatches = state_dict.load_state(
            module, candidate.state, candidate.metadata, self._architecture.training_only
        )
        if mismatches.names:
            where = f"{candidate.name} of {self._path.name}" if candidate.name else self._path.name
            raise InputError(
                f"{where} does not fit the network: {mismatches.describe(candidate.left_out)}.",
                suggest_remedy(mismatches, self._path),
            )
        return module


def _used_state(state: State, architecture: Architecture) -> State:
    return {name: state[name] for name in state if not state_dict.is_inside(name, architecture.training_only)}


def _select_by_key(candidates: list[Candidate], key: str, path: Path) -> list[Candidate]:
    """The candidates that `key` names, with all prefixes below it."""
    selected = [candidate for candidate in candidates if f"{candidate.name}.".startswith(f"{key}.")]
    if not selected:
        names = [candidate.name or "(the whole file)" for candidate in candidates]
        raise InputError(
            f"{path.name} has no state dict {key!r} with names of the network; it has {format_names(names)}.",
            f"Choose one: {_format_option(path, candidates[0].name)}",
        )
    return selected


def _ambiguity_error(path: Path, names: list[str]) -> InputError:
    named = [name for name in names if name] or names
    return InputError(
        f"{path.name} has {len(names)} state dicts that fit the network: "
        f"{format_names([name or '(the whole file)' for name in names])}.",
        f"Choose one, such as {_format_option(path, named[-1])}",
    )


def _format_option(path: Path, name: str) -> str:
    return f"--weights {shlex.quote(f'{path}:{name}' if name else str(path))}"


def _are_equal(states: list[State]) -> bool:
    """Whether all hold the same tensors, such as one dictionary that was saved under two keys."""
    first = states[0]
    return all(
        state.keys() == first.keys() and all(torch.equal(state[name], first[name]) for name in first)
        for state in states[1:]
    )


def _describe_choice(candidate: Candidate, path: Path) -> Iterable[str]:
    if candidate.name:
        yield f"The weights are {candidate.name!r} in {path.name}."
    if candidate.left_out:
        yield f"Left out of {path.name}, as not the network's: {format_names(candidate.left_out, 3)}."
