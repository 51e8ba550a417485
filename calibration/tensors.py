"""Samples for networks that take no image: arrays by the inputs' names, from an .npz file, or noise.

    np.savez("samples.npz", tokens=tokens, mask=mask)      # each N×…, one row per sample

An array called `labels` (N integers) beside them gives the classes, where no input is called so.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.errors import InputError
from deploykit.core.values import TensorSample, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE: Final = "synthetic"
LABELS: Final = "labels"
COUNT: Final = 512
"""Samples of noise in a split."""


def open_tensors(name: str, inputs: Sequence[TensorSpec], split: str) -> LazySet:
    """What lies at a path, or `synthetic`: noise of the inputs' shapes, whose splits share no sample.

    InputError where the file does not have what the network takes, or where noise would say nothing: of integers, only
    the user knows which of them mean something.
    """
    if name == NOISE:
        return _noise(inputs, split)
    path = Path(name)
    if path.suffix.lower() != ".npz":
        raise InputError(
            f"{name!r} cannot be read as inputs of this network, which takes {_wanted(inputs)}.",
            "Give an .npz file with an array for each input, one row per sample"
            + (", or tell how images become inputs (--scale, --mean, --std)." if _image(inputs) else "."),
        )
    arrays = _read(path)
    labels = arrays.pop(LABELS, None) if LABELS not in {spec.name for spec in inputs} else None
    _check(path, arrays, inputs, labels)
    make = partial(_row, path.stem, {spec.name: arrays[spec.name] for spec in inputs}, labels)
    return LazySet(path.name, "all", True, (), range(len(arrays[inputs[0].name])), make)


def _noise(inputs: Sequence[TensorSpec], split: str) -> LazySet:
    if numbers := [spec.name for spec in inputs if not spec.dtype.startswith("float")]:
        raise InputError(
            f"the input {numbers[0]!r} is of integers, and noise would not be what the network knows.",
            f"Give real inputs with --data FILE.npz: arrays {_wanted(inputs)}, one row per sample.",
        )
    ranges = {"calibration": range(COUNT), "evaluation": range(COUNT, 2 * COUNT), "all": range(2 * COUNT)}
    return LazySet("normal noise", split, False, (), ranges[split], partial(_drawn, tuple(inputs)))


def _drawn(inputs: tuple[TensorSpec, ...], seed: int) -> TensorSample:
    """Normally distributed, from raw bits and the sum of twelve of them: numpy promises the same bits for ever."""
    bits = np.random.PCG64(seed)
    tensors = {}
    for spec in inputs:
        shape = tuple(int(size) for size in spec.shape[1:])
        raw = bits.random_raw(12 * max(1, int(np.prod(shape)))).reshape(12, -1)
        uniform = (raw >> np.uint64(11)).astype(np.float64) / 2**53
        tensors[spec.name] = (uniform.sum(axis=0) - 6).astype(np.float32).reshape(shape)
    return TensorSample(f"noise-{seed:04}", tensors)


def _row(stem: str, arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any] | None, index: int) -> TensorSample:
    label = None if labels is None else int(labels[index])
    return TensorSample(f"{stem}[{index}]", {name: array[index] for name, array in arrays.items()}, label)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if path.is_file() and not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is no .npz file, or not a whole one")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}.", "Give an .npz file with an array for each input.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} cannot be read: {reason}.", "Write it anew with numpy.savez.") from error
    if foreign := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise InputError(f"{path} holds {foreign[0]!r}, which is no array.", "Write it anew with numpy.savez.")
    return arrays


def _check(
    path: Path, arrays: Mapping[str, NDArray[Any]], inputs: Sequence[TensorSpec], labels: NDArray[Any] | None
) -> None:
    remedy = f"It must hold {_wanted(inputs)}, one row per sample."
    names = {spec.name for spec in inputs}
    if lacking := sorted(names - set(arrays)):
        raise InputError(f"{path} has no array {lacking[0]!r}, but {', '.join(sorted(arrays)) or 'none'}.", remedy)
    if extra := sorted(set(arrays) - names):
        raise InputError(f"{path} has an array {extra[0]!r}, and the network has no such input.", remedy)
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        found = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"{path} does not have as many rows of each: {found}.", remedy)
    for spec in inputs:
        array = arrays[spec.name]
        wanted, kind = tuple(spec.shape[1:]), _carried(spec)
        if array.shape[1:] != wanted or array.dtype != kind:
            raise InputError(
                f"{path}: {spec.name!r} has rows of {_size(array.shape[1:])} {array.dtype}, and the network takes "
                f"{_size(wanted)} {kind}.",
                remedy,
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: {spec.name!r} holds NaN or infinity.", "Take these rows out.")
    count = counts[inputs[0].name]
    if labels is not None and (labels.shape != (count,) or labels.dtype.kind not in "iu"):
        raise InputError(f"{path}: labels are {_size(labels.shape)} {labels.dtype}.", f"Give {count} integers.")


def _carried(spec: TensorSpec) -> str:
    """Samples are made once, as float32, whatever floating-point type an input has."""
    return "float32" if spec.dtype == "float16" else spec.dtype


def _wanted(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} (N×{_size(spec.shape[1:])} {_carried(spec)})" for spec in inputs)


def _size(shape: Sequence[int | str]) -> str:
    return "×".join(map(str, shape)) or "1"


def _image(inputs: Sequence[TensorSpec]) -> bool:
    return len(inputs) == 1 and len(inputs[0].shape) == 4 and 3 in inputs[0].shape[1:]
