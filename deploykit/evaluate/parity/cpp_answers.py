"""Ask the C++ library, by its own program: inputs go in and answers come out as files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from deploykit.core import cpp_programs
from deploykit.core.errors import InternalError
from deploykit.core.values import Arrays, Value

PIECE_BYTES: Final = 64 << 20
"""Inputs that are handed over at once, so that many samples need no more memory than few."""


class Answered(Value, frozen=True):
    """What `deploykit-answer` prints."""

    runtime: str
    """`ONNX Runtime 1.31.1`."""
    file: str
    """The engine within the bundle."""
    passed_over: tuple[str, ...]


def answers(
    program: Path, bundle: Path, batches: Iterable[Arrays], size: int, inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[Answered, Arrays]:
    """What computed, and its answers to all rows of `batches`, which hold `size` rows each, but for the last one.
    `inputs` and `outputs` are names in the manifest's order: files follow it, and take no name of a tensor.

    Errors of the C++ library are raised as ours of the same kind, see `native.run`.
    """
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        given = {name: Path(scratch) / f"in{index}.npy" for index, name in enumerate(inputs)}
        got = {name: Path(scratch) / f"out{index}.npy" for index, name in enumerate(outputs)}
        for piece in _pieces(batches):
            for name, path in given.items():
                np.save(path, piece[name])
            said = cpp_programs.run(program, bundle, size, *given.values(), *got.values())
            try:
                answered = msgspec.json.decode(said, type=Answered)
                found.append({name: np.load(path, allow_pickle=False) for name, path in got.items()})
            except (msgspec.MsgspecError, OSError, ValueError) as error:
                raise InternalError(f"{program.name} gave what is no answer: {error}.", "Report it.") from error
    return answered, _joined(found)


def _pieces(batches: Iterable[Arrays]) -> Iterator[Arrays]:
    """Batches in a row, as many as are handed over at once."""
    waiting: list[Arrays] = []
    for batch in batches:
        waiting.append(batch)
        if sum(array.nbytes for each in waiting for array in each.values()) >= PIECE_BYTES:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(several: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([each[name] for each in several]) for name in several[0]}
