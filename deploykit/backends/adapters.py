"""Runners made of others: one that is given float32, and one that only repeats what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploykit.core.values import Arrays, Runner, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Fitted:
    """A runner that takes float32 whatever floating-point type its inputs have: samples are made once, as float32."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.inputs = runner.inputs
        self.outputs = runner.outputs

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, of the types that the runner gives."""
        return self.runner.run({spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in self.inputs})


class Recorded:
    """A runner that gives recorded answers in the order in which they were recorded, a batch's worth per call."""

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], answers: Mapping[str, NDArray[Any]]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._answers = answers
        self._given = 0

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The next answers, as many as there are rows in the input."""
        start = self._given
        self._given += len(next(iter(arrays.values())))
        return {name: answers[start : self._given] for name, answers in self._answers.items()}
