"""Runners that wrap others: one casts float32 inputs, one replays recorded outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploykit.core.values import Arrays, Runner, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CastingRunner:
    """Takes float32 samples and casts them to the runner's input types."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.inputs = runner.inputs
        self.outputs = runner.outputs

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, in the runner's own types."""
        return self.runner.run({spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in self.inputs})


class ReplayRunner:
    """Replays recorded outputs in their order, as many rows per call as the input has."""

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], recorded: Mapping[str, NDArray[Any]]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._recorded = recorded
        self._position = 0

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The next recorded rows, as many as the input has."""
        start = self._position
        self._position += len(next(iter(arrays.values())))
        return {name: rows[start : self._position] for name, rows in self._recorded.items()}
