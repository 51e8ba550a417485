"""Samples for networks without image input: arrays by input name from an .npz file, or noise.

    np.savez("samples.npz", tokens=tokens, mask=mask)      # each N×…, one row per sample

An additional array `labels` (N integers) gives the classes, unless an input has that name.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.core.values import TensorSample, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE: Final = "synthetic"
LABELS: Final = "labels"
COUNT: Final = 512
"""Noise samples per split."""


def open_tensors(name: str, inputs: Sequence[TensorSpec], split: str) -> LazyDataset:
    """Open the tensors at a path, or `synthetic`: noise in the inputs' shapes, whose splits share no sample.

    InputError if the file does not match the network's inputs, or if noise is requested for integer inputs, whose
    valid values only the user knows.
    """
    if name == NOISE:
        return _make_noise(inputs, split)
    path = Path(name)
    if path.suffix.lower() != ".npz":
        raise InputError(
            f"{name!r} does not hold inputs of this network, which takes {_format_inputs(inputs)}.",
            "Give an .npz file with an array for each input, one row per sample"
            + (", or set the image preprocessing (--scale, --mean, --std)." if _is_image_input(inputs) else "."),
        )
    arrays = _read_arrays(path)
    labels = arrays.pop(LABELS, None) if LABELS not in {spec.name for spec in inputs} else None
    _check_arrays(path, arrays, inputs, labels)
    make = partial(_make_sample, path.stem, {spec.name: arrays[spec.name] for spec in inputs}, labels)
    return LazyDataset(path.name, "all", True, (), range(len(arrays[inputs[0].name])), make)


def _make_noise(inputs: Sequence[TensorSpec], split: str) -> LazyDataset:
    if integers := [spec for spec in inputs if not spec.dtype.startswith("float")]:
        raise InputError(
            f"the input {integers[0].name!r} is {integers[0].dtype}, and noise is not valid integer input.",
            f"Give real inputs with --data FILE.npz: arrays {_format_inputs(inputs)}, one row per sample.",
        )
    ranges = {"calibration": range(COUNT), "evaluation": range(COUNT, 2 * COUNT), "all": range(2 * COUNT)}
    return LazyDataset("normal noise", split, False, (), ranges[split], partial(_draw_noise, tuple(inputs)))


def _draw_noise(inputs: tuple[TensorSpec, ...], seed: int) -> TensorSample:
    """Draw normal noise as the sum of twelve uniform numbers from raw bits, which are equal in every numpy release."""
    bits = np.random.PCG64(seed)
    tensors = {}
    for spec in inputs:
        shape = tuple(int(size) for size in spec.shape[1:])
        raw = bits.random_raw(12 * max(1, int(np.prod(shape)))).reshape(12, -1)
        uniform = (raw >> np.uint64(11)).astype(np.float64) / 2**53
        tensors[spec.name] = (uniform.sum(axis=0) - 6).astype(np.float32).reshape(shape)
    return TensorSample(f"noise-{seed:04}", tensors)


def _make_sample(
    stem: str, arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any] | None, index: int
) -> TensorSample:
    label = None if labels is None else int(labels[index])
    return TensorSample(f"{stem}[{index}]", {name: array[index] for name, array in arrays.items()}, label)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if path.is_file() and not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is not an .npz file, or it is truncated")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}.", "Give an .npz file with an array for each input.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} cannot be read: {reason}.", "Write it again with numpy.savez.") from error
    if foreign := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise InputError(f"{path} holds {foreign[0]!r}, which is not an array.", "Write it again with numpy.savez.")
    return arrays


def _check_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], inputs: Sequence[TensorSpec], labels: NDArray[Any] | None
) -> None:
    remedy = f"It must hold {_format_inputs(inputs)}, one row per sample."
    names = {spec.name for spec in inputs}
    if missing := sorted(names - set(arrays)):
        raise InputError(f"{path} has no array {missing[0]!r}, only {', '.join(sorted(arrays)) or 'none'}.", remedy)
    if extra := sorted(set(arrays) - names):
        raise InputError(f"{path} has an array {extra[0]!r}, but the network has no such input.", remedy)
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        rows = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"{path} needs the same number of rows, at least one, in each array: {rows}.", remedy)
    for spec in inputs:
        array = arrays[spec.name]
        wanted, kind = tuple(spec.shape[1:]), _sample_dtype(spec)
        if array.shape[1:] != wanted or array.dtype != kind:
            raise InputError(
                f"{path}: {spec.name!r} is {format_shape(array.shape)} {array.dtype}, and the network takes "
                f"{format_shape(('N', *wanted))} {kind}.",
                remedy,
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: {spec.name!r} holds NaN or infinity.", "Remove these rows.")
    count = counts[inputs[0].name]
    if labels is not None and (labels.shape != (count,) or labels.dtype.kind not in "iu"):
        raise InputError(f"{path}: labels are {format_shape(labels.shape)} {labels.dtype}.", f"Give {count} integers.")


def _sample_dtype(spec: TensorSpec) -> str:
    """The type of a sample: float32 for every floating-point input."""
    return "float32" if spec.dtype == "float16" else spec.dtype


def _format_inputs(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} ({format_shape(('N', *spec.shape[1:]))} {_sample_dtype(spec)})" for spec in inputs)


def _is_image_input(inputs: Sequence[TensorSpec]) -> bool:
    return len(inputs) == 1 and len(inputs[0].shape) == 4 and not {1, 3}.isdisjoint(inputs[0].shape[1:])
