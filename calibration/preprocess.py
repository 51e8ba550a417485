"""Preprocessing of a decoded image to a network's input: the reference that all other implementations are tested with.

Given H×W×3 uint8 RGB pixels and a `Preprocessing`, with integers throughout and `//` rounding down:

1. Resize. The shorter side becomes `resize`, the longer side `resize * longer // shorter`. The filter is Pillow's
   BILINEAR, which antialiases: a triangle whose half-width is max(1, input size / output size) input pixels, centred on
   input position (i + 0.5) · input / output, with weights normalised to one, applied first along rows (horizontally),
   rounded to uint8, then along columns, and rounded to uint8 again. An image that has that size is not changed.
2. Crop. Of the `spare` rows (resized height − `height`), the half above the crop is spare / 2 rounded half to even:
   `(spare + 1) // 2` if spare % 4 == 3, else `spare // 2`. Columns likewise.
3. Lay out as 3×height×width, or height×width×3 where `layout` is `NHWC`; channels in the order red, green, blue, or its
   reverse where `channels` is `bgr`. Where it is `grey`, the one channel is the luminance of ITU-R 601 as Pillow and
   torchvision round it, `(19595 red + 38470 green + 7471 blue + 32768) >> 16`: a grey image keeps its values.
4. Normalise. Every pixel becomes (pixel · scale − mean) / std, computed in double precision and rounded once to
   float32. `mean` and `std` are listed in the output's order: a `bgr` network's begin with blue.

Steps 1 and 2 are those of torchvision's Resize and CenterCrop on a PIL image, except for images more than twice as high
as wide: Pillow 13 resizes their columns first, Pillow 12 the rows, and the intermediate rounding differs by 1 of 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.core.values import ChannelOrder, Preprocessing

MAX_RESIZED_PIXELS: Final = 2**26
"""200 MB. A very elongated image would otherwise fill the memory, since its longer side scales with the shorter one."""


def preprocess_image(image: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float32]:
    """Preprocess H×W×3 uint8 RGB to channels×height×width (`NHWC`: height×width×channels) float32, the channels in
    `spec.channels` order.
    """
    planes = _order_channels(crop_image(image, spec), spec.channels)
    axis = 0 if spec.layout == "NCHW" else -1
    return np.stack(
        [values[planes[..., channel]] for channel, values in enumerate(_build_value_table(spec))], axis=axis
    )


def _order_channels(pixels: NDArray[np.uint8], channels: ChannelOrder) -> NDArray[np.uint8]:
    """H×W×3 RGB to H×W×3 in the network's order, or to H×W×1."""
    if channels == "grey":
        weighted = pixels @ np.array([19595, 38470, 7471], dtype=np.uint32)
        return ((weighted + 32768) >> 16).astype(np.uint8)[..., None]
    return pixels if channels == "rgb" else pixels[..., ::-1]


def preprocess_batch(images: Sequence[NDArray[np.uint8]], spec: Preprocessing) -> NDArray[np.float32]:
    """Preprocess images of any size to N×channels×height×width (or N×height×width×channels) float32."""
    if not images:
        raise InputError("the batch has no images.", "Give at least one.")
    return np.stack([preprocess_image(image, spec) for image in images])


def crop_image(image: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.uint8]:
    """Resize and crop H×W×3 to height×width×3, uint8, RGB. The rest of the preprocessing may be part of the graph."""
    _check_image(image)
    height, width, _ = image.shape
    shorter = min(height, width)
    resized_height, resized_width = spec.resize * height // shorter, spec.resize * width // shorter
    if resized_height * resized_width > MAX_RESIZED_PIXELS:
        raise InputError(
            f"an image of {height}x{width} pixels would be resized to {resized_height}x{resized_width}.",
            "Crop such an elongated image first.",
        )
    # One axis at a time: for both, Pillow 13 would begin with the columns of images more than twice as high as wide.
    narrowed = Image.fromarray(image).resize((resized_width, height), Image.Resampling.BILINEAR)
    resized = narrowed.resize((resized_width, resized_height), Image.Resampling.BILINEAR)
    top, left = _halve_to_even(resized_height - spec.height), _halve_to_even(resized_width - spec.width)
    return np.array(resized.crop((left, top, left + spec.width, top + spec.height)))


def _halve_to_even(spare: int) -> int:
    """Half of `spare`, rounded half to even as torchvision does with Python's `round`."""
    return (spare + 1) // 2 if spare % 4 == 3 else spare // 2


def _build_value_table(spec: Preprocessing) -> NDArray[np.float32]:
    """Build the channels×256 table of normalised values. With a table, every implementation can be exact."""
    pixels = np.arange(256, dtype=np.float64)
    mean, std = (np.array(values, dtype=np.float64)[:, None] for values in (spec.mean, spec.std))
    return ((pixels * spec.scale - mean) / std).astype(np.float32)


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an image must be H×W×3 uint8, not {format_shape(image.shape)} {image.dtype}.",
            "Decode it with calibration.decode_image, or convert it to RGB.",
        )
