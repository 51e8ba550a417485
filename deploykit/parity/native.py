"""Ask the C++ library, by its own program: inputs go in and answers come out as files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from deploykit import native
from deploykit.errors import InternalError
from deploykit.values import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE_BYTES: Final = 64 << 20
"""Inputs that are handed over at once, so that many samples need no more memory than few."""


class Answered(Value, frozen=True):
    """What `deploykit-answer` prints."""

    runtime: str
    """`ONNX Runtime 1.31.1`."""
    file: str
    """The engine within the bundle."""
    passed_over: tuple[str, ...]


def answers(program: Path, bundle: Path, batches: Iterable[NDArray[Any]], size: int) -> tuple[Answered, NDArray[Any]]:
    """What computed, and its answers to all rows of `batches`, which hold `size` rows each, but for the last one.

    Errors of the C++ library are raised as ours of the same kind, see `native.run`.
    """
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        given, got = Path(scratch) / "in.npy", Path(scratch) / "out.npy"
        for piece in _pieces(batches):
            np.save(given, piece)
            said = native.run(program, bundle, size, given, got)
            try:
                answered = msgspec.json.decode(said, type=Answered)
                found.append(np.load(got, allow_pickle=False))
            except (msgspec.MsgspecError, OSError, ValueError) as error:
                raise InternalError(f"{program.name} gave what is no answer: {error}.", "Report it.") from error
    return answered, np.concatenate(found)


def _pieces(batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Batches in a row, as many as are handed over at once."""
    waiting: list[NDArray[Any]] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.nbytes for each in waiting) >= PIECE_BYTES:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
