"""Outputs of the C++ library, computed by its program: inputs and outputs are passed as files."""

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

CHUNK_BYTES: Final = 64 << 20
"""Limit of the inputs passed per call of the program, so that memory does not grow with the number of samples."""


class CppRun(Value, frozen=True):
    """Output of `deploykit-answer`."""

    runtime: str
    """`ONNX Runtime 1.31.1`."""
    file: str
    """The engine's path in the bundle."""
    skipped_engines: tuple[str, ...]


def run_cpp_program(
    program: Path, bundle: Path, batches: Iterable[Arrays], size: int, inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[CppRun, Arrays]:
    """Run the program on all rows of `batches`, which hold `size` rows each except the last; returns the runtime used
    and the outputs. `inputs` and `outputs` are names in the manifest's order, which the files follow: their names do
    not contain tensor names.

    Errors of the C++ library are raised as Python errors of the same kind, see `cpp_programs.run`.
    """
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        input_files = {name: Path(scratch) / f"in{index}.npy" for index, name in enumerate(inputs)}
        output_files = {name: Path(scratch) / f"out{index}.npy" for index, name in enumerate(outputs)}
        for chunk in _chunk_batches(batches):
            for name, path in input_files.items():
                np.save(path, chunk[name])
            printed = cpp_programs.run_program(program, bundle, size, *input_files.values(), *output_files.values())
            try:
                run = msgspec.json.decode(printed, type=CppRun)
                results.append({name: np.load(path, allow_pickle=False) for name, path in output_files.items()})
            except (msgspec.MsgspecError, OSError, ValueError) as error:
                raise InternalError(f"{program.name} returned invalid output: {error}.", "Report it.") from error
    return run, _concatenate(results)


def _chunk_batches(batches: Iterable[Arrays]) -> Iterator[Arrays]:
    """Concatenate batches up to CHUNK_BYTES."""
    chunk: list[Arrays] = []
    for batch in batches:
        chunk.append(batch)
        if sum(array.nbytes for arrays in chunk for array in arrays.values()) >= CHUNK_BYTES:
            yield _concatenate(chunk)
            chunk = []
    if chunk:
        yield _concatenate(chunk)


def _concatenate(batches: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
