"""An image file -> H×W×3, uint8, RGB."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deploykit.errors import InputError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
"""What counts as an image in a folder; matched without regard to case."""


def decode(path: str | Path) -> NDArray[np.uint8]:
    """The pixels of an image file as a viewer shows them: H×W×3, uint8, RGB.

    EXIF orientation is applied. Grey is repeated over the channels; 16-bit samples keep their high byte; transparency
    is dropped without compositing, as torchvision's ImageFolder does, so that a network sees what it was trained on.
    Of a file with several frames, the first is taken.
    """
    path = Path(path)
    try:
        return _read(path)
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}.", "Give the path of an image.") from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder, not an image.", "Give the path of an image.") from None
    except PermissionError:
        raise InputError(f"{str(path)!r} may not be read.", "Grant read permission on it.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{str(path)!r} declares more than {Image.MAX_IMAGE_PIXELS} pixels, which could fill the memory.",
            "If the file can be trusted, scale it down first.",
        ) from None
    except Exception as error:  # Pillow's parsers raise whatever they trip over: OSError, SyntaxError, struct.error …
        raise InputError(
            f"{str(path)!r} cannot be decoded as an image: {error}", "Replace the file or take it out."
        ) from error


def _read(path: Path) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        # Pillow only warns between one and two times its limit. A file that declares so much is refused.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Of TIFF tags, EXIF blocks and transparent palettes, which do not concern the colours.
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(path) as opened:
            return np.array(_to_rgb(ImageOps.exif_transpose(opened)), dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Pillow's own conversion, except where it would clip instead of scale, or guess."""
    if image.mode.startswith("I;16"):
        return _high_byte(np.asarray(image).astype(np.uint16))
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its 32-bit integers have no agreed white level")
        return _high_byte(values.astype(np.uint16))
    if image.mode == "F":
        raise ValueError("its floating-point samples have no agreed white level")
    return image.convert("RGB")


def _high_byte(grey: NDArray[np.uint16]) -> Image.Image:
    """What Pillow itself does to 16-bit colour, so that grey and colour agree."""
    return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
