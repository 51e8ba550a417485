"""Images, or network inputs, in a .npy or .npz file.

    uint8    N×H×W×3 (RGB) or N×H×W (grey): images, preprocessed like any other
    floats   N×3×H×W, 16, 32 or 64 bits: network inputs that were preprocessed elsewhere, passed on as float32

An .npz holds them as `images`, or as its only array, and may hold N integers as `labels`. A .npy is mapped and not
read, so it may be larger than the memory; an .npz, which may be compressed, is read whole. Neither is ever unpickled.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.errors import InputError
from deploykit.core.values import Sample

SUFFIXES: Final = frozenset({".npy", ".npz"})

ACCEPTED: Final = "Give uint8 images N×H×W×3 or N×H×W, or float16, float32 or float64 network inputs N×3×H×W."


def load(name: str, split: str) -> LazySet:
    path = Path(name)
    images, labels = _read(path)
    _check_images(path, images)
    if labels is not None:
        _check_labels(path, images, labels)
    return LazySet(
        name=path.stem,
        split=split,
        real=True,
        classes=(),
        items=range(len(images)),
        make=partial(_sample, path.stem, images, labels),
    )


def _sample(stem: str, images: NDArray[Any], labels: NDArray[Any] | None, index: int) -> Sample:
    name = f"{stem}[{index}]"
    label = None if labels is None else int(labels[index])
    if images.dtype == np.uint8:
        # A copy: the caller must not hold, or change, the array behind it.
        pixels = np.array(images[index]) if images.ndim == 4 else np.stack([images[index]] * 3, axis=-1)
        return Sample(name, pixels, label)
    with np.errstate(over="ignore"):  # said below, with the sample's name
        planes = np.array(images[index], dtype=np.float32, order="C")
    if not np.isfinite(planes).all():
        raise InputError(
            f"the sample {name} holds NaN, infinity or a value beyond float32.", "Take it out, or preprocess it anew."
        )
    return Sample(name, planes, label)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            return _members(path, loaded)
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be read as an array: {_short(error)}.", ACCEPTED) from error
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error}.", "Grant read permission, or copy it anew."
        ) from error


def _short(error: Exception) -> str:
    """Where numpy suggests to allow pickles, what is wrong instead."""
    if "object" in str(error).lower():
        return "it holds Python objects, and unpickling these would run their code"
    return "it is neither .npy nor .npz" if "pickle" in str(error).lower() else str(error).rstrip(".")


def _members(path: Path, archive: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    others = [name for name in archive.files if name != "labels"]
    if "images" not in others and len(others) != 1:
        held = ", ".join(map(repr, archive.files)) or "nothing"
        raise InputError(
            f"{str(path)!r} holds {held}, and it is not clear which are the images.",
            "Save them as `images`, with `labels` beside them or not.",
        )
    images = archive["images" if "images" in others else others[0]]
    return images, archive["labels"] if "labels" in archive.files else None


def _check_images(path: Path, images: NDArray[Any]) -> None:
    if 0 in images.shape:
        _refuse(path, images, "no pixel")
    if images.dtype == np.uint8:
        _check_pixels(path, images)
    elif images.dtype.kind != "f" or images.dtype.itemsize > 8:
        _refuse(path, images, "this type has no agreed white level")
    elif images.ndim != 4 or images.shape[1] != 3 or images.shape[3] == 3:
        _refuse(path, images, "floats are network inputs, channels before rows")


def _check_pixels(path: Path, images: NDArray[Any]) -> None:
    if images.ndim == 3 and images.shape[2] == 3:
        _refuse(path, images, "one colour image, or grey ones three pixels wide? One image is 1×H×W×3")
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] == 3:
        _refuse(path, images, "the channels may be the second axis or the last")
    if images.ndim == 4 and images.shape[1] == 3:
        _refuse(path, images, "channels come last in images; array.transpose(0, 2, 3, 1) puts them there")
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] == 3):
        _refuse(path, images, "uint8 arrays are images")


def _check_labels(path: Path, images: NDArray[Any], labels: NDArray[Any]) -> None:
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or labels.min() < 0:
        raise InputError(
            f"`labels` in {str(path)!r} is {_shape(labels)}, {labels.dtype}"
            f"{', with negative values' if labels.dtype.kind == 'i' and labels.size and labels.min() < 0 else ''}.",
            f"Give {len(images)} integers from 0, one for each image.",
        )


def _refuse(path: Path, images: NDArray[Any], reason: str) -> NoReturn:
    raise InputError(f"{str(path)!r} holds an array {_shape(images)}, {images.dtype}: {reason}.", ACCEPTED)


def _shape(array: NDArray[Any]) -> str:
    return "×".join(map(str, array.shape)) or "without axes"
