"""An image file -> H×W×3, uint8, RGB. Safe to call from several threads at once."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deploykit.core.errors import InputError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
"""What counts as an image in a folder; matched without regard to case."""


PILLOW: Final = r"PIL\."
PILLOW_FILTER: Final[Any] = ("ignore", None, UserWarning, re.compile(PILLOW), 0)
"""The entry of `warnings.filters` that suppresses warnings of Pillow's modules."""


MAX_12_BIT: Final = 0xFFF
"""Largest sample of 12 bits."""


class UndecodableImage(InputError):
    """The file was read but is not a valid image. Only this error is skipped and counted in a large set."""


def decode_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image file to the pixels that a viewer shows: H×W×3, uint8, RGB.

    EXIF orientation is applied. Grey is repeated over the channels. 16-bit samples keep their high byte; a grey image
    of 16 bits in which none exceeds 4095 has 12 bits, as cameras and X-ray machines write it, and keeps the high 8 of
    those. Transparency is dropped without compositing, as torchvision's ImageFolder does, so that a network gets what
    it was trained on. Only the first frame of a file with several is decoded.

    Raises UndecodableImage for invalid content, and plain InputError for a file that cannot be read or is too large.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}.", "Give the path of an image.") from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder, not an image.", "Give the path of an image.") from None
    except PermissionError:
        raise InputError(f"no permission to read {str(path)!r}.", "Grant read permission on it.") from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.", "Try again, or copy it again.") from error
    return decode_image_bytes(content, str(path))


def decode_image_bytes(content: bytes, where: str) -> NDArray[np.uint8]:
    """Decode the content of an image file as `decode_image` does; `where` names the file in errors."""
    try:
        return _read_image(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{where!r} declares more than {Image.MAX_IMAGE_PIXELS} pixels, which could fill the memory.",
            "If the file can be trusted, scale it down first.",
        ) from None
    except MemoryError:
        # A condition of the machine that differs from run to run: the image must not count as damaged.
        raise InputError(f"out of memory while decoding {where!r}.", "Scale it down first.") from None
    except Exception as error:  # Pillow's parsers raise all kinds of errors: OSError, SyntaxError, struct.error …
        raise UndecodableImage(
            f"{where!r} cannot be decoded as an image: {_shorten_error(error)}.", "Replace or remove the file."
        ) from error


def _shorten_error(error: Exception) -> str:
    """Describe a decoding error without the memory address that Pillow prints for the buffer."""
    return "unknown image format" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")


def _read_image(content: bytes) -> NDArray[np.uint8]:
    _silence_pillow()
    with Image.open(io.BytesIO(content)) as opened:
        # Pillow only warns between one and two times its limit; such a file is refused here.
        if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        return np.array(_to_rgb(ImageOps.exif_transpose(opened)), dtype=np.uint8)


def _silence_pillow() -> None:
    """Suppress Pillow's warnings about TIFF tags and EXIF blocks, which do not affect the colours.

    The filter is installed permanently: `catch_warnings` changes state shared by all threads, and threads that leave it
    in a different order than they entered leave its filters behind. The filter is checked on every call, since a caller
    may have restored its own.
    """
    if PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", category=UserWarning, module=PILLOW)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB with Pillow, except for modes where Pillow would clip instead of scale, or guess."""
    if image.mode.startswith("I;16"):
        return _keep_high_byte(np.asarray(image).astype(np.uint16))
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("32-bit integers have no defined white level")
        return _keep_high_byte(values.astype(np.uint16))
    if image.mode == "F":
        raise ValueError("floating-point samples have no defined white level")
    return image.convert("RGB")


def _keep_high_byte(grey: NDArray[np.uint16]) -> Image.Image:
    """Keep the high byte, as Pillow does for 16-bit colour, so that grey and colour agree; of 12 bits in 16, their
    high 8: the high byte would leave 16 levels next to black.
    """
    shift = 4 if grey.max() <= MAX_12_BIT else 8
    return Image.fromarray((grey >> shift).astype(np.uint8)).convert("RGB")
