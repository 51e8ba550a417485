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
QUIET: Final[Any] = ("ignore", None, UserWarning, re.compile(PILLOW), 0)
"""The entry of `warnings.filters` that keeps Pillow's modules quiet."""


class Undecodable(InputError):
    """The bytes are there and are no image. A few of these in a large set are skipped and counted; nothing else is."""


def decode(path: str | Path) -> NDArray[np.uint8]:
    """The pixels of an image file as a viewer shows them: H×W×3, uint8, RGB.

    EXIF orientation is applied. Grey is repeated over the channels; 16-bit samples keep their high byte; transparency
    is dropped without compositing, as torchvision's ImageFolder does, so that a network sees what it was trained on.
    Of a file with several frames, the first is taken.

    Raises Undecodable where the content is at fault, and plain InputError where the file is out of reach or too large.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}.", "Give the path of an image.") from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder, not an image.", "Give the path of an image.") from None
    except PermissionError:
        raise InputError(f"{str(path)!r} may not be read.", "Grant read permission on it.") from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.", "Try again, or copy it anew.") from error
    return decode_bytes(content, str(path))


def decode_bytes(content: bytes, where: str) -> NDArray[np.uint8]:
    """As `decode`, of a file's content; `where` names it in errors."""
    try:
        return _read(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{where!r} declares more than {Image.MAX_IMAGE_PIXELS} pixels, which could fill the memory.",
            "If the file can be trusted, scale it down first.",
        ) from None
    except MemoryError:
        # The machine's fault, which differs from run to run: such an image must not count as a damaged one.
        raise InputError(f"the memory ran out while {where!r} was decoded.", "Scale it down first.") from None
    except Exception as error:  # Pillow's parsers raise whatever they trip over: OSError, SyntaxError, struct.error …
        raise Undecodable(
            f"{where!r} cannot be decoded as an image: {_short(error)}.", "Replace the file or take it out."
        ) from error


def _short(error: Exception) -> str:
    """Pillow names the buffer it was given by its address, which no reader needs."""
    return (
        "it is of no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")
    )


def _read(content: bytes) -> NDArray[np.uint8]:
    _hush()
    with Image.open(io.BytesIO(content)) as opened:
        # Pillow only warns between one and two times its limit. A file that declares so much is refused.
        if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        return np.array(_to_rgb(ImageOps.exif_transpose(opened)), dtype=np.uint8)


def _hush() -> None:
    """Silence Pillow's remarks on TIFF tags and EXIF blocks, which do not concern the colours.

    For good and not for a moment: `catch_warnings` changes what all threads share, and threads that leave it in another
    order than they entered it leave its filters behind. Looked for each time, since a caller may have put back his own.
    """
    if QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", category=UserWarning, module=PILLOW)


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
