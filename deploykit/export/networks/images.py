"""How images become the input of a network: its own preprocessing, and what the user said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import ImageOverrides, InputSpec, Preprocessing


def read(path: Path) -> ImageOverrides:
    """What a .toml file says: any of resize, height, width, scale, mean, std and channels. InputError where it cannot
    be read, or says anything else.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ImageOverrides)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror}.", "Give the path of a .toml file."
        ) from error
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{path} does not say how images become inputs: {reason}.",
            "It may say resize, height, width, scale, mean, std and channels, such as mean = [0.485, 0.456, 0.406].",
        ) from error


UNTOLD = Preprocessing(resize=1, height=1, width=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""What holds of a network whose preprocessing is not known, where the user says a part of it: pixels from 0 to 1."""


def told(
    own: Preprocessing | None, image: ImageOverrides | None, inputs: Sequence[InputSpec], model: str
) -> Preprocessing | None:
    """The network's own preprocessing with what the user said instead; of a network that has none, what the user says.
    None where neither is there: then nothing is guessed, and its input is a tensor like any other.

    `inputs` are those that the network is known to have: the size that is not said comes from there.
    """
    if own is not None:
        return own if image is None else _changed(own, image)
    if image is None or not image.normalises:
        return None
    sizes = [_image_size(spec) for spec in inputs]
    if len(sizes) > 1 or None in sizes:
        raise UsageError(
            f"{model} takes {', '.join(map(_called, inputs))}, and no image of three channels.",
            "Leave --scale, --mean, --std, --channels and --preprocessing out.",
        )
    if sizes and sizes[0] is not None:
        layout, height, width = sizes[0]
        if image.height not in (None, height) or image.width not in (None, width):
            raise UsageError(f"{model} takes images of {height}x{width}.", "Leave --input-size out.")
        known = msgspec.structs.replace(UNTOLD, resize=max(height, width), height=height, width=width, layout=layout)
        return _changed(known, image)
    if image.height is None or image.width is None:
        raise UsageError(f"{model} does not say which size of images it takes.", "Give --input-size HxW.")
    return _changed(UNTOLD, image)


def _changed(spec: Preprocessing, image: ImageOverrides) -> Preprocessing:
    """With what the user said. A new input size takes the whole image: its shorter side is resized to the larger of the
    two, unless the user says that as well.
    """
    given = {name: value for name, value in msgspec.structs.asdict(image).items() if value is not None}
    for name in ("scale", "mean", "std"):
        _require_usable(name, given.get(name, ()))
    if image.height is not None and image.width is not None and image.resize is None:
        given["resize"] = max(image.height, image.width)
    try:
        return msgspec.structs.replace(spec, **given)
    except ValueError as error:
        raise UsageError(f"{error}.", "Change --input-size, or resize in the preprocessing file.") from error


def _require_usable(name: str, said: float | tuple[float, ...]) -> None:
    for number in said if isinstance(said, tuple) else (said,):
        if not math.isfinite(number) or (number <= 0 and name != "mean"):
            wanted = "finite" if name == "mean" else "finite and above 0"
            raise UsageError(
                f"{name} holds {number}, and must be {wanted}.", "Change what is said of the preprocessing."
            )


def image_like(inputs: Sequence[InputSpec]) -> bool:
    """Whether the one input has the shape of an image of three channels."""
    return len(inputs) == 1 and _image_size(inputs[0]) is not None


def _called(spec: InputSpec) -> str:
    """`tokens (N×16 int64)`."""
    return f"{spec.name} ({'×'.join(map(str, ('N', *spec.shape)))} {spec.dtype})"


def _image_size(spec: InputSpec) -> tuple[str, int, int] | None:
    """Layout, height and width; None where it is no image of three channels."""
    if len(spec.shape) != 3:
        return None
    if spec.dtype in ("float32", "float16") and spec.shape[0] == 3:
        return "NCHW", spec.shape[1], spec.shape[2]
    if spec.dtype in ("float32", "float16", "uint8") and spec.shape[2] == 3:
        return "NHWC", spec.shape[0], spec.shape[1]
    return None
