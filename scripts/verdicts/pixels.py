"""From a picture to the network's input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Pixels(NamedTuple):
    """(pixel · scale − mean) / std; means and deviations in the order of `channels`."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str
    size: tuple[int, int]
    """Height and width."""

    def normalize_picture(self, path: Path) -> NDArray[np.float32]:
        """1×3×height×width. A picture of another size is resized, which the six networks' own pictures never are."""
        picture = Image.open(path).convert("RGB")
        height, width = self.size
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels: NDArray[Any] = np.asarray(picture, np.float64)
        ordered = pixels[..., ::-1] if self.channels == "bgr" else pixels
        normalized = (ordered * self.scale - self.mean) / self.std  # height × width × 3
        return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None], np.float32)

    @property
    def arguments(self) -> list[str]:
        """Of deploykit; it leaves a picture of the input's size as it is."""
        height, width = self.size
        mean, std = (",".join(f"{number:g}" for number in numbers) for numbers in (self.mean, self.std))
        return [
            "--input-size",
            f"{height}x{width}",
            "--scale",
            repr(self.scale),
            "--mean",
            mean,
            "--std",
            std,
            "--channels",
            self.channels,
        ]
