"""Images, or network inputs, in a .npy or .npz file.

    uint8    N×H×W×3 (RGB) or N×H×W (grey): images, preprocessed like image files
    floats   N×3×H×W or N×1×H×W, 16, 32 or 64 bits: already preprocessed network inputs, converted to float32

An .npz holds them as `images`, or as its only array, and may hold N integers as `labels`. A .npy is memory-mapped, so
it may exceed the memory; an .npz, which may be compressed, is read whole. Neither is ever unpickled.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.errors import InputError
from deploykit.core.files import escape_undecodable
from deploykit.core.shapes import format_shape
from deploykit.core.values import Sample

SUFFIXES: Final = frozenset({".npy", ".npz"})

ACCEPTED: Final = (
    "Give uint8 images N×H×W×3 or N×H×W, or float16, float32 or float64 network inputs N×3×H×W or N×1×H×W."
)


def load_arrays(name: str, split: str) -> LazyDataset:
    path = Path(name)
    images, labels = _read_arrays(path)
    _check_images(path, images)
    if labels is not None:
        _check_labels(path, images, labels)
    return LazyDataset(
        name=escape_undecodable(path.stem),
        split=split,
        real=True,
        classes=(),
        items=range(len(images)),
        load_sample=partial(_make_sample, escape_undecodable(path.stem), images, labels),
    )


def _make_sample(stem: str, images: NDArray[Any], labels: NDArray[Any] | None, index: int) -> Sample:
    name = f"{stem}[{index}]"
    label = None if labels is None else int(labels[index])
    if images.dtype == np.uint8:
        # A copy: the caller must neither keep the whole array alive nor modify it.
        pixels = np.array(images[index]) if images.ndim == 4 else np.stack([images[index]] * 3, axis=-1)
        return Sample(name, pixels, label)
    with np.errstate(over="ignore"):  # reported below with the sample's name
        planes = np.array(images[index], dtype=np.float32, order="C")
    if not np.isfinite(planes).all():
        raise InputError(
            f"the sample {name} holds NaN, infinity or a value beyond float32.", "Remove it or preprocess it again."
        )
    return Sample(name, planes, label)


def _read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            return _read_members(path, loaded)
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be read as an array: {_shorten_error(error)}.", ACCEPTED) from error
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error}.", "Grant read permission, or copy it again."
        ) from error


def _shorten_error(error: Exception) -> str:
    """Describe a read error; numpy's own advice to allow pickles is replaced by the actual problem."""
    if "object" in str(error).lower():
        return "it holds Python objects, and unpickling them would run their code"
    return "it is neither .npy nor .npz" if "pickle" in str(error).lower() else str(error).rstrip(".")


def _read_members(path: Path, archive: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    others = [name for name in archive.files if name != "labels"]
    if "images" not in others and len(others) != 1:
        names = ", ".join(map(repr, archive.files)) or "nothing"
        raise InputError(
            f"{str(path)!r} holds {names}; which array are the images is ambiguous.",
            "Save the images as `images` and, optionally, the labels as `labels`.",
        )
    images = archive["images" if "images" in others else others[0]]
    return images, archive["labels"] if "labels" in archive.files else None


def _check_images(path: Path, images: NDArray[Any]) -> None:
    if 0 in images.shape:
        _invalid_file(path, images, "it has no pixel")
    if images.dtype == np.uint8:
        _check_pixels(path, images)
    elif images.dtype.kind != "f" or images.dtype.itemsize > 8:
        _invalid_file(path, images, "this type has no defined white level")
    elif images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[3] == 3:
        _invalid_file(path, images, "floats are network inputs in N×3×H×W or N×1×H×W order")


def _check_pixels(path: Path, images: NDArray[Any]) -> None:
    if images.ndim == 3 and images.shape[2] == 3:
        _invalid_file(path, images, "ambiguous: one colour image (1×H×W×3), or grey images three pixels wide")
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] == 3:
        _invalid_file(path, images, "ambiguous: the channels may be the second or the last axis")
    if images.ndim == 4 and images.shape[1] == 3:
        _invalid_file(path, images, "images are N×H×W×3; convert with array.transpose(0, 2, 3, 1)")
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] == 3):
        _invalid_file(path, images, "a uint8 array is N×H×W×3 or N×H×W")


def _check_labels(path: Path, images: NDArray[Any], labels: NDArray[Any]) -> None:
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or labels.min() < 0:
        raise InputError(
            f"`labels` in {str(path)!r} is {format_shape(labels.shape)}, {labels.dtype}"
            f"{', with negative values' if labels.dtype.kind == 'i' and labels.size and labels.min() < 0 else ''}.",
            f"Give {len(images)} integers ≥ 0, one per image.",
        )


def _invalid_file(path: Path, images: NDArray[Any], reason: str) -> NoReturn:
    raise InputError(f"{str(path)!r} holds an array {format_shape(images.shape)}, {images.dtype}: {reason}.", ACCEPTED)
